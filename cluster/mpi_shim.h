// All that BetterBox calls of MPI: a table of functions that the shim (mpi_shim.c) fills. The shim is compiled by a site's mpicc
// (python/betterbox/_mpi_build.py), once for each MPI; BetterBox itself is built without any. So nothing here depends on an
// MPI: handles are words, whose meaning only the shim knows, and everything is plain C.
//
// Errors of MPI end the job (MPI_ERRORS_ARE_FATAL on communicators of our own), so no function tells of any but start().
#pragma once

#include <stdint.h>

// Another number for every change of this file: a shim of another one is not used.
#define BETTERBOX_MPI_ABI 1

// The one symbol of the shim: a BetterboxMpiShim.
#define BETTERBOX_MPI_SYMBOL "betterbox_mpi_shim"

typedef struct BetterboxMpiComm {
  uint64_t word;
} BetterboxMpiComm;

// Under way from isend, irecv or ibarrier until test, test_receive says that it is over. May be moved.
typedef struct BetterboxMpiRequest {
  uint64_t word;
} BetterboxMpiRequest;

typedef struct BetterboxMpiWindow {
  uint64_t word;
} BetterboxMpiWindow;

// A message that a probe has found, to be taken by take().
typedef struct BetterboxMpiFound {
  uint64_t word;
  int source;
  int bytes;
} BetterboxMpiFound;

typedef struct BetterboxMpi {
  int abi;  // BETTERBOX_MPI_ABI of the shim, first for good

  // The text of MPI_Get_library_version, cut to `room` bytes with its end. May be called before start.
  void (*version)(char* text, int room);
  // MPI_Init_thread, unless MPI is up. Result: 0, or 1: it does not start, 2: no MPI_THREAD_MULTIPLE.
  int (*start)(void);
  void (*finish)(void);
  void (*abort)(int code);

  // Collective, each over the ranks of its communicator.
  BetterboxMpiComm (*world)(void);                     // a copy of MPI_COMM_WORLD
  BetterboxMpiComm (*node_of)(BetterboxMpiComm comm);  // those that share memory with this rank
  void (*free_comm)(BetterboxMpiComm comm);
  void (*barrier)(BetterboxMpiComm comm);
  void (*gather_ints)(const int* mine, int count, int* all, BetterboxMpiComm comm);
  int (*least)(int mine, BetterboxMpiComm comm);
  void (*or_bytes)(const void* mine, void* all, int bytes, BetterboxMpiComm comm);
  // Memory of each rank that all ranks of a node see; free_shared is collective, too.
  BetterboxMpiWindow (*share)(int bytes, BetterboxMpiComm node, void** mine);
  void* (*shared_of)(BetterboxMpiWindow window, int rank);
  void (*free_shared)(BetterboxMpiWindow window);

  int (*rank)(BetterboxMpiComm comm);
  int (*size)(BetterboxMpiComm comm);

  // Messages of bytes. None of these waits.
  BetterboxMpiRequest (*isend)(const void* data, int bytes, int to, int tag, BetterboxMpiComm comm);
  BetterboxMpiRequest (*irecv)(void* data, int bytes, int from, int tag, BetterboxMpiComm comm);
  BetterboxMpiRequest (*ibarrier)(BetterboxMpiComm comm);
  // Result: not 0 once it is over; it may be asked again.
  int (*test)(BetterboxMpiRequest* request);
  // The same of an irecv: `*bytes` that came, -1 if it was cancelled.
  int (*test_receive)(BetterboxMpiRequest* request, int* bytes);
  void (*cancel)(BetterboxMpiRequest* request);
  // A message with this tag of `from` (-1: of anybody). Result: 0 if there is none.
  int (*probe)(int from, int tag, BetterboxMpiComm comm, BetterboxMpiFound* found);
  // All bytes of a message that was found, which is there.
  void (*take)(const BetterboxMpiFound* found, void* data);
} BetterboxMpi;

typedef const BetterboxMpi* BetterboxMpiShim(void);
