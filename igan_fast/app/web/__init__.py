"""The web editor: ``igan-fast web`` serves a page on which photos are edited and faces drawn, and an HTTP API."""
