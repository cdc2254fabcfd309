// A Worker for pages that are opened from a disk. The search box runs in a Worker, and browsers start none for file://
// addresses. This one runs the script in a hidden frame and passes the messages on. From a server nothing changes.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      window.addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      const inside = frame.contentWindow;
      const loaded = inside.document;
      loaded.open();
      loaded.write("<!doctype html><body></body>");
      loaded.close();
      // What a script in a Worker expects to find.
      inside.postMessage = (data) => window.dispatchEvent(
        Object.assign(new MessageEvent("message", { data, source: inside })));
      const load = (address) => new Promise((resolve, reject) => {
        const script = loaded.createElement("script");
        script.src = address;
        script.onload = resolve;
        script.onerror = reject;
        loaded.body.append(script);
      });
      inside.importScripts = (...addresses) =>
        addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
      this.inside = inside;
      this.frame = frame;
      this.ready = load(url);
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
