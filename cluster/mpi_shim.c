// The shim between BetterBox and an MPI (mpi_shim.h): its types, constants and calls stay in here. Any compiler wrapper makes
// it: mpicc -shared -fPIC -O2 -o shim.so mpi_shim.c
#include "mpi_shim.h"

#include <mpi.h>
#include <stddef.h>
#include <string.h>

#if MPI_VERSION < 3
#error "BetterBox needs MPI 3 (matched probes, shared memory): use a newer MPI"
#endif

// A handle of MPI is a pointer (Open MPI) or an int (MPICH): its bytes are kept in a word.
typedef char handles_fit[sizeof(MPI_Comm) <= 8 && sizeof(MPI_Request) <= 8 && sizeof(MPI_Message) <= 8 &&
                                 sizeof(MPI_Win) <= 8
                             ? 1
                             : -1];

static MPI_Comm comm_in(BetterboxMpiComm comm) {
  MPI_Comm handle;
  memcpy(&handle, &comm.word, sizeof handle);
  return handle;
}

static BetterboxMpiComm comm_out(MPI_Comm handle) {
  BetterboxMpiComm comm = {0};
  memcpy(&comm.word, &handle, sizeof handle);
  return comm;
}

static MPI_Request request_in(const BetterboxMpiRequest* request) {
  MPI_Request handle;
  memcpy(&handle, &request->word, sizeof handle);
  return handle;
}

static BetterboxMpiRequest request_out(MPI_Request handle) {
  BetterboxMpiRequest request = {0};
  memcpy(&request.word, &handle, sizeof handle);
  return request;
}

static MPI_Win window_in(BetterboxMpiWindow window) {
  MPI_Win handle;
  memcpy(&handle, &window.word, sizeof handle);
  return handle;
}

// --- the job --------------------------------------------------------------------------------------

static void version(char* text, int room) {
  char whole[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(whole, &length);
  if (length > room - 1) length = room - 1;
  memcpy(text, whole, (size_t)length);
  text[length] = '\0';
}

static int start(void) {
  int there = 0, level = MPI_THREAD_SINGLE;
  MPI_Initialized(&there);
  if (there != 0) {
    MPI_Query_thread(&level);
  } else if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS) {
    return 1;
  }
  return level < MPI_THREAD_MULTIPLE ? 2 : 0;
}

static void finish(void) { MPI_Finalize(); }

static void abort_job(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

// --- together -------------------------------------------------------------------------------------

static BetterboxMpiComm world(void) {
  MPI_Comm copy = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &copy);
  MPI_Comm_set_errhandler(copy, MPI_ERRORS_ARE_FATAL);
  return comm_out(copy);
}

static BetterboxMpiComm node_of(BetterboxMpiComm comm) {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(comm_in(comm), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  return comm_out(node);
}

static void free_comm(BetterboxMpiComm comm) {
  MPI_Comm handle = comm_in(comm);
  MPI_Comm_free(&handle);
}

static void barrier(BetterboxMpiComm comm) { MPI_Barrier(comm_in(comm)); }

static void gather_ints(const int* mine, int count, int* all, BetterboxMpiComm comm) {
  MPI_Allgather(mine, count, MPI_INT, all, count, MPI_INT, comm_in(comm));
}

static int least(int mine, BetterboxMpiComm comm) {
  int all = 0;
  MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, comm_in(comm));
  return all;
}

static void or_bytes(const void* mine, void* all, int bytes, BetterboxMpiComm comm) {
  MPI_Allreduce(mine, all, bytes, MPI_BYTE, MPI_BOR, comm_in(comm));
}

static BetterboxMpiWindow share(int bytes, BetterboxMpiComm node, void** mine) {
  MPI_Win handle = MPI_WIN_NULL;
  BetterboxMpiWindow window = {0};
  MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, comm_in(node), mine, &handle);
  memcpy(&window.word, &handle, sizeof handle);
  return window;
}

static void* shared_of(BetterboxMpiWindow window, int rank) {
  MPI_Aint bytes = 0;
  int unit = 0;
  void* address = NULL;
  MPI_Win_shared_query(window_in(window), rank, &bytes, &unit, &address);
  return address;
}

static void free_shared(BetterboxMpiWindow window) {
  MPI_Win handle = window_in(window);
  MPI_Win_free(&handle);
}

static int rank(BetterboxMpiComm comm) {
  int own = 0;
  MPI_Comm_rank(comm_in(comm), &own);
  return own;
}

static int size(BetterboxMpiComm comm) {
  int ranks = 0;
  MPI_Comm_size(comm_in(comm), &ranks);
  return ranks;
}

// --- messages -------------------------------------------------------------------------------------

static BetterboxMpiRequest isend(const void* data, int bytes, int to, int tag, BetterboxMpiComm comm) {
  MPI_Request handle = MPI_REQUEST_NULL;
  MPI_Isend(data, bytes, MPI_BYTE, to, tag, comm_in(comm), &handle);
  return request_out(handle);
}

static BetterboxMpiRequest irecv(void* data, int bytes, int from, int tag, BetterboxMpiComm comm) {
  MPI_Request handle = MPI_REQUEST_NULL;
  MPI_Irecv(data, bytes, MPI_BYTE, from, tag, comm_in(comm), &handle);
  return request_out(handle);
}

static BetterboxMpiRequest ibarrier(BetterboxMpiComm comm) {
  MPI_Request handle = MPI_REQUEST_NULL;
  MPI_Ibarrier(comm_in(comm), &handle);
  return request_out(handle);
}

static int test(BetterboxMpiRequest* request) {
  MPI_Request handle = request_in(request);
  int over = 0;
  MPI_Test(&handle, &over, MPI_STATUS_IGNORE);
  *request = request_out(handle);
  return over;
}

static int test_receive(BetterboxMpiRequest* request, int* bytes) {
  MPI_Request handle = request_in(request);
  MPI_Status status;
  int over = 0, cancelled = 0;
  MPI_Test(&handle, &over, &status);
  *request = request_out(handle);
  if (over == 0) return 0;
  MPI_Test_cancelled(&status, &cancelled);
  *bytes = -1;
  if (cancelled == 0) MPI_Get_count(&status, MPI_BYTE, bytes);
  return 1;
}

static void cancel(BetterboxMpiRequest* request) {
  MPI_Request handle = request_in(request);
  MPI_Cancel(&handle);
  *request = request_out(handle);
}

static int probe(int from, int tag, BetterboxMpiComm comm, BetterboxMpiFound* found) {
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  int there = 0;
  MPI_Improbe(from < 0 ? MPI_ANY_SOURCE : from, tag, comm_in(comm), &there, &message, &status);
  if (there == 0) return 0;
  found->word = 0;
  memcpy(&found->word, &message, sizeof message);
  found->source = status.MPI_SOURCE;
  MPI_Get_count(&status, MPI_BYTE, &found->bytes);
  return 1;
}

static void take(const BetterboxMpiFound* found, void* data) {
  MPI_Message message;
  memcpy(&message, &found->word, sizeof message);
  MPI_Mrecv(data, found->bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE);
}

const BetterboxMpi* betterbox_mpi_shim(void) {
  static const BetterboxMpi table = {
      .abi = BETTERBOX_MPI_ABI,
      .version = version,
      .start = start,
      .finish = finish,
      .abort = abort_job,
      .world = world,
      .node_of = node_of,
      .free_comm = free_comm,
      .barrier = barrier,
      .gather_ints = gather_ints,
      .least = least,
      .or_bytes = or_bytes,
      .share = share,
      .shared_of = shared_of,
      .free_shared = free_shared,
      .rank = rank,
      .size = size,
      .isend = isend,
      .irecv = irecv,
      .ibarrier = ibarrier,
      .test = test,
      .test_receive = test_receive,
      .cancel = cancel,
      .probe = probe,
      .take = take,
  };
  return &table;
}
