// Runs the blocks of a grid one after the other, and the threads of a block as
// fibers. See include/cuda_on_cpu.h.

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"
#include "fibers.h"

namespace cuda_on_cpu {

thread_local Position position;

namespace {

constexpr unsigned kWarp = 32;
const char* const kNames[] = {"__syncthreads",   "__syncwarp",    "__shfl_sync", "__shfl_down_sync", "__shfl_up_sync",
                              "__shfl_xor_sync", "__ballot_sync", "__any_sync",  "__all_sync"};

enum class State { kReady, kWaiting, kEnded };

struct Thread {
  Fiber fiber;
  uint3 index{};
  State state = State::kReady;
  Op op{};
  unsigned mask = 0;
  int argument = 0;
  size_t size = 0;
  alignas(8) char given[8], got[8];
};

struct Shared {
  const void* key;
  size_t size;
  std::unique_ptr<char[]> memory;  // exact, so that AddressSanitizer sees what is beside it
  bool filled;                     // in this block
};

// What the host set, see cuda_on_cpu_set_order and cuda_on_cpu_set_blocks.
int order = 0;
int64_t chosen_blocks = 0;

struct Launch {
  std::vector<Thread> threads;
  size_t count = 0;
  std::vector<size_t> warps, lanes;  // in the order of their turns
  std::vector<Shared> shared;
  std::string broken_rule;  // by a thread
  const std::function<void()>* body = nullptr;
  Thread* running = nullptr;
  std::mt19937 random;
};

thread_local std::unique_ptr<Launch> launch_memory;  // its stacks serve all launches of an OS thread
thread_local Launch* launch = nullptr;

std::string place(const Thread& thread) {
  const uint3& b = position.block;
  return " (block " + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " + std::to_string(b.z) + ", thread " +
         std::to_string(thread.index.x) + ")";
}

[[noreturn]] void fail(const std::string& rule) { throw std::runtime_error("cuda_on_cpu: " + rule); }

void enter() {
  Thread& own = *launch->running;
  own.fiber.entered();
  (*launch->body)();
  own.state = State::kEnded;
  own.fiber.suspend(true);
}

// The number of the lane whose value this one gets; kWarp where it keeps its
// own.
unsigned source_of(const Thread& thread, unsigned lane) {
  const int argument = thread.argument, own = static_cast<int>(lane);
  int source = own;
  if (thread.op == Op::kShuffle) source = argument & static_cast<int>(kWarp - 1);
  if (thread.op == Op::kShuffleDown) source = own + argument;
  if (thread.op == Op::kShuffleUp) source = own - argument;
  if (thread.op == Op::kShuffleXor) source = own ^ argument;
  return source < 0 || source >= static_cast<int>(kWarp) ? kWarp : static_cast<unsigned>(source);
}

// Lets the lanes of one warp go on whose call is complete, and returns whether
// there are any.
bool advance_warp(size_t first) {
  std::vector<Thread>& threads = launch->threads;
  const unsigned lanes = static_cast<unsigned>(std::min<size_t>(kWarp, launch->count - first));
  bool advanced = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    Thread& own = threads[first + lane];
    if (own.state != State::kWaiting || own.op == Op::kBarrier) continue;
    const std::string name = kNames[static_cast<int>(own.op)];
    if (!(own.mask >> lane & 1)) fail(name + " with a mask that does not name the calling lane" + place(own));
    bool complete = true;
    unsigned ballot = 0;
    for (unsigned l = 0; l < kWarp; ++l) {
      if (!(own.mask >> l & 1)) continue;
      if (l >= lanes) fail(name + " with a mask that names lanes that do not exist" + place(own));
      const Thread& other = threads[first + l];
      if (other.state == State::kEnded) fail(name + " with a mask that names a lane that has ended" + place(other));
      if (other.op == Op::kBarrier) fail(name + " with a mask that names a lane at __syncthreads" + place(other));
      if (other.op != own.op || other.size != own.size) fail(name + " while another lane calls another" + place(other));
      if (other.mask != own.mask) {
        if (other.mask >> lane & 1) fail(name + " with another mask than another lane's" + place(other));
        complete = false;
      }
      unsigned predicate = 0;
      if (own.op >= Op::kBallot) std::memcpy(&predicate, other.given, sizeof(predicate));
      ballot |= predicate << l;
    }
    if (!complete) continue;
    for (unsigned l = 0; l < lanes; ++l) {
      if (!(own.mask >> l & 1)) continue;
      Thread& other = threads[first + l];
      if (own.op >= Op::kBallot) {
        const unsigned result = own.op == Op::kBallot ? ballot : own.op == Op::kAny ? ballot != 0 : ballot == own.mask;
        std::memcpy(other.got, &result, sizeof(result));
      } else if (own.op != Op::kSyncWarp) {
        const unsigned source = source_of(other, l);
        if (source < kWarp && !(own.mask >> source & 1))
          fail(name + " from a lane that the mask does not name" + place(other));
        std::memcpy(other.got, source < kWarp ? threads[first + source].given : other.given, own.size);
      }
      other.state = State::kReady;
    }
    advanced = true;
  }
  return advanced;
}

// All threads of the block wait or have ended. Lets them go on from a barrier; returns false where all have ended.
bool advance_block() {
  size_t ended = 0;
  for (size_t i = 0; i < launch->count; ++i) ended += launch->threads[i].state == State::kEnded;
  if (ended == launch->count) return false;
  for (size_t i = 0; i < launch->count; ++i) {
    Thread& thread = launch->threads[i];
    if (thread.state == State::kEnded) fail("__syncthreads that some threads never reach" + place(thread));
    if (thread.op != Op::kBarrier) fail("threads that wait for each other in vain" + place(thread));
    thread.state = State::kReady;
  }
  return true;
}

// Runs the ready threads of a warp, each until it waits or ends.
void run_lanes(size_t first) {
  if (order > 1) std::shuffle(launch->lanes.begin(), launch->lanes.end(), launch->random);
  for (const size_t lane : launch->lanes) {
    if (first + lane >= launch->count) continue;
    Thread& thread = launch->threads[first + lane];
    if (thread.state != State::kReady) continue;
    launch->running = &thread;
    position.thread = thread.index;
    thread.fiber.resume();
    if (!launch->broken_rule.empty()) fail(launch->broken_rule);
  }
}

// A warp runs as far as it can, to the end or to a barrier, before the next warp has its turn. Warps that wait for each
// other at every shuffle would hide that a barrier is missing.
void run_block() {
  for (Shared& variable : launch->shared) variable.filled = false;
  for (size_t i = 0; i < launch->count; ++i) {
    launch->threads[i].state = State::kReady;
    launch->threads[i].fiber.start(enter);
  }
  do {
    if (order > 1) std::shuffle(launch->warps.begin(), launch->warps.end(), launch->random);
    for (const size_t warp : launch->warps) do {
        run_lanes(warp * kWarp);
      } while (advance_warp(warp * kWarp));
  } while (advance_block());
}

}  // namespace

void wait(Op op, unsigned mask, int argument, void* value, size_t size) {
  Thread& own = *launch->running;
  own.op = op;
  own.mask = mask;
  own.argument = argument;
  own.size = size;
  if (size) std::memcpy(own.given, value, size);
  own.state = State::kWaiting;
  own.fiber.suspend(false);
  if (size) std::memcpy(value, own.got, size);
}

void* shared_memory(const void* key, size_t size) {
  std::vector<Shared>& all = launch->shared;
  auto found = std::find_if(all.begin(), all.end(), [&](const Shared& s) { return s.key == key; });
  if (found == all.end()) {
    size_t total = size;
    for (const Shared& other : all) total += other.size;
    if (total > 48 * 1024 && launch->broken_rule.empty()) launch->broken_rule = "more than 48 KiB of shared memory";
    all.push_back({key, size, std::unique_ptr<char[]>(new char[size]), false});
    found = all.end() - 1;
  }
  if (!found->filled) std::memset(found->memory.get(), 0xFF, size);
  found->filled = true;
  return found->memory.get();
}

void run(dim3 grid, dim3 threads, const std::function<void()>& thread) {
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535u || grid.z > 65535u)
    fail("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z));
  if (!threads.x || threads.x > 1024 || threads.y != 1 || threads.z != 1) fail("a block that is not 1 to 1024 threads");
  if (!launch_memory) launch_memory = std::make_unique<Launch>();
  Launch& own = *launch_memory;
  own.count = threads.x;
  own.body = &thread;
  own.shared.clear();
  own.broken_rule.clear();
  own.random.seed(static_cast<unsigned>(order));
  if (own.threads.size() < own.count) own.threads = std::vector<Thread>(own.count);
  for (size_t i = 0; i < own.count; ++i) own.threads[i].index = {static_cast<unsigned>(i), 0, 0};
  own.warps.resize((own.count + kWarp - 1) / kWarp);
  own.lanes.resize(kWarp);
  for (std::vector<size_t>* turns : {&own.warps, &own.lanes}) {
    std::iota(turns->begin(), turns->end(), size_t{0});
    if (order == 1) std::reverse(turns->begin(), turns->end());
  }
  launch = &own;
  position.threads = threads;
  position.grid = grid;

  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  const int64_t begin = chosen_blocks < 0 ? std::max<int64_t>(blocks + chosen_blocks, 0) : 0;
  const int64_t end = chosen_blocks > 0 ? std::min(blocks, chosen_blocks) : blocks;
  int64_t step = 1;  // from block to block: with another order one that visits
                     // each of them once
  if (order > 1) {
    step = static_cast<int64_t>(own.random() % static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 20))) | 1;
    while (std::gcd(step, blocks) != 1) step += 2;
  }
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t block = order == 1 ? blocks - 1 - i : static_cast<int64_t>(static_cast<__int128>(i) * step % blocks);
    if (block < begin || block >= end) continue;
    position.block = {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                      static_cast<unsigned>(block / grid.x / grid.y)};
    run_block();
  }
}

}  // namespace cuda_on_cpu

// Settings, for Python's ctypes. The order in which threads run between two
// barriers, and blocks: 0 by number, 1 backwards, else a seed.
extern "C" void cuda_on_cpu_set_order(int order) { cuda_on_cpu::order = order; }

// With a positive count only the first blocks of each launch run, with a negative one only the last; with 0 all of
// them. It makes tensors of more than 2^31 elements affordable.
extern "C" void cuda_on_cpu_set_blocks(int64_t count) { cuda_on_cpu::chosen_blocks = count; }
