/* Files mapped into memory, whose rows are read in place, and a handler of SIGBUS that keeps the process alive.
 *
 * Where a mapped file has been cut off, or the disk fails, the kernel sends SIGBUS to the thread that touches the page. The
 * handler replaces the rest of the file's map by pages of zeros and marks the map as broken; the thread goes on, and whoever
 * asked for the rows finds the mark after their use and raises an error. mpigmm/data/file_map.py calls these functions by
 * ctypes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* since Linux 5.14 */
#endif

/* Largest number of files that are mapped at once. */
enum { MOST_MAPS = 1024 };

/* Bytes of rows that have been used before their pages are taken out of the process, those of all files together: one by one
 * they would take longer. They remain in the cache of the operating system. */
enum { MOST_USED = 1 << 24 };

/* Pages up to this size are mapped as a whole where rows that stay in the process begin and end. */
enum { LARGE_PAGE = 1 << 21 };

/* `is_cached` looks at a page in so many bytes. */
enum { LOOKED_AT = 1 << 21 };

/* What begin_rows and end_rows return, besides 0: rows are missing, or cannot be read. */
enum { CUT_OFF = 1, UNREADABLE = 2 };

struct file_map {
    _Atomic(char *) begin, end; /* of the pages; end is null while the entry is unused */
    char *kept_begin, *kept_end; /* of the bytes that stay in the process after their use; null if there are none */
    char *first; /* where the bytes begin that were asked for */
    off_t start; /* of the pages in the file */
    off_t size; /* of the file when it was mapped */
    int descriptor;
    atomic_int is_broken, is_used; /* is_used: some of its pages may be in the process */
};

static struct file_map maps[MOST_MAPS];
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* held while a file is mapped, mapped anew or unmapped */
static struct sigaction previous; /* the handler of SIGBUS before ours */
static _Atomic int64_t used = 0; /* bytes of all maps that have been used since `release` */
static uintptr_t page = 0; /* bytes of a page; 0 until the handler is installed */

static char *page_of(char *address) { return (char *)((uintptr_t)address & ~(page - 1)); }

static char *large_page_of(char *address) { return (char *)((uintptr_t)address & ~(uintptr_t)(LARGE_PAGE - 1)); }

/* The map that contains an address, or null. An entry may change meanwhile unless the address lies in its map. */
static struct file_map *map_of(char *address) {
    for (ptrdiff_t i = 0; i < MOST_MAPS; i++) {
        char *end = atomic_load(&maps[i].end), *begin = atomic_load(&maps[i].begin);
        if (end && begin <= address && address < end && end == atomic_load(&maps[i].end)) return maps + i;
    }
    return NULL;
}

/* Only calls functions that are safe in a signal handler. */
static void on_bus_error(int number, siginfo_t *info, void *context) {
    int error = errno;
    struct file_map *map = info->si_code > 0 ? map_of(info->si_addr) : NULL;
    if (map) {
        char *from = page_of(info->si_addr);
        atomic_store(&map->is_broken, 1);
        if (mmap(from, map->end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
            errno = error;
            return;
        }
    }
    sigaction(number, &previous, NULL); /* not ours: the instruction is repeated, and the handler before ours is called */
    if (info->si_code <= 0) raise(number);
    errno = error;
    (void)context;
}

static int install_handler(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    page = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &previous);
}

/* Whether a file lies on a file system of this node, where pages of the cache can be mapped at little cost. */
static int is_local(int descriptor) {
    static const uint32_t local[] = {
        0xEF53, /* ext2 to ext4 */
        0x58465342, /* XFS */
        0x9123683E, /* Btrfs */
        0xF2F52010, /* F2FS */
        0x01021994, /* tmpfs */
        0x794C7630, /* overlayfs, of containers */
    };
    struct statfs found;
    if (fstatfs(descriptor, &found)) return 0;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if ((uint32_t)found.f_type == local[i]) return 1;
    return 0;
}

/* Maps pages of a file from `start` on, at an address or, if that is null, anywhere. */
static char *map_pages(int descriptor, off_t start, char *address, size_t length) {
    char *begin = mmap(address, length, PROT_READ, MAP_SHARED | (address ? MAP_FIXED : 0), descriptor, start);
    if (begin != MAP_FAILED) madvise(begin, length, MADV_SEQUENTIAL); /* the cache is to drop first what was used once */
    return begin;
}

/* Maps the pages of a map from `from` to `to` anew. */
static void renew(const struct file_map *map, char *from, char *to) {
    if (from < to) map_pages(map->descriptor, map->start + (from - atomic_load(&map->begin)), from, to - from);
}

/* Takes the pages of all maps out of the process, but for those that are kept, and the tables of their addresses, by mapping
 * the files anew. A thread that uses rows meanwhile gets their pages back. */
static void release(void) {
    if (pthread_mutex_trylock(&changing)) return;
    for (ptrdiff_t i = 0; i < MOST_MAPS; i++) {
        struct file_map *map = maps + i;
        if (!atomic_exchange(&map->is_used, 0)) continue;
        char *begin = atomic_load(&map->begin), *end = atomic_load(&map->end);
        if (!end) continue;
        char *kept_begin = large_page_of(map->kept_begin), *kept_end = large_page_of(map->kept_end);
        if (kept_begin < begin) kept_begin = begin;
        renew(map, begin, kept_begin < kept_end ? kept_begin : end);
        if (kept_begin < kept_end) renew(map, kept_end, end);
    }
    pthread_mutex_unlock(&changing);
}

static int map_bytes(int descriptor, int64_t offset, int64_t n_bytes) {
    struct stat status;
    int number = 0;
    while (number < MOST_MAPS && atomic_load(&maps[number].end)) number++;
    if (number == MOST_MAPS || n_bytes <= 0 || !is_local(descriptor)) return -1;
    if (fstat(descriptor, &status) || status.st_size < offset + n_bytes) return -1;
    if (!page && install_handler()) return -1;
    struct file_map *map = maps + number;
    off_t start = offset / (off_t)page * (off_t)page;
    size_t length = (size_t)(offset - start + n_bytes);
    map->descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (map->descriptor < 0) return -1;
    map->start = start;
    char *begin = map_pages(map->descriptor, start, NULL, length);
    if (begin == MAP_FAILED) {
        close(map->descriptor);
        return -1;
    }
    map->first = begin + (offset - start);
    map->size = status.st_size;
    atomic_store(&map->is_broken, 0);
    atomic_store(&map->is_used, 0);
    map->kept_begin = map->kept_end = NULL;
    atomic_store(&map->begin, begin);
    atomic_store(&map->end, begin + length);
    return number;
}

/* Maps n_bytes bytes of an open file from an offset on, and installs the handler if that was not done yet. Returns the
 * number of the map, or -1 where the file cannot be mapped, or better is not. */
int map_file(int descriptor, int64_t offset, int64_t n_bytes) {
    pthread_mutex_lock(&changing);
    int number = map_bytes(descriptor, offset, n_bytes);
    pthread_mutex_unlock(&changing);
    return number;
}

/* Where the bytes of a map begin. */
void *address_of(int number) { return maps[number].first; }

static int state_of(const struct file_map *map) {
    struct stat status;
    if (fstat(map->descriptor, &status)) return UNREADABLE;
    if (status.st_size < map->size) return CUT_OFF;
    return atomic_load(&map->is_broken) ? UNREADABLE : 0;
}

/* Whether n_bytes bytes from an offset in a map on seem to be in the operating system's cache: some pages of them are. */
int is_cached(int number, int64_t offset, int64_t n_bytes) {
    struct file_map *map = maps + number;
    off_t first = map->start + (map->first - atomic_load(&map->begin)) + offset;
    char byte;
    struct iovec place = {&byte, 1};
    for (int64_t at = 0; at < n_bytes; at += LOOKED_AT)
        if (preadv2(map->descriptor, &place, 1, first + at, RWF_NOWAIT) != 1) return 0;
    return 1;
}

/* Lets n_bytes bytes from an offset in a map on, and no others, stay in the process after their use. */
void keep_rows(int number, int64_t offset, int64_t n_bytes) {
    struct file_map *map = maps + number;
    pthread_mutex_lock(&changing);
    map->kept_begin = map->first + offset;
    map->kept_end = map->kept_begin + n_bytes;
    pthread_mutex_unlock(&changing);
}

/* Begins the use of n_bytes bytes from an offset in a map on. If `ahead`, waits until they are in memory; otherwise they are
 * read when they are used. Returns 0, CUT_OFF or UNREADABLE. */
int begin_rows(int number, int64_t offset, int64_t n_bytes, int ahead) {
    struct file_map *map = maps + number;
    char *from = page_of(map->first + offset), *to = map->first + offset + n_bytes;
    int state = state_of(map);
    atomic_store(&map->is_used, 1);
    if (state || !ahead || !madvise(from, to - from, MADV_POPULATE_READ) || errno != EFAULT) return state;
    state = state_of(map);
    return state ? state : UNREADABLE;
}

/* Ends the use of rows, with n_bytes bytes that are not kept. Returns CUT_OFF or UNREADABLE where some of the rows may have
 * been zeros, else 0. */
int end_rows(int number, int64_t n_bytes) {
    int state = state_of(maps + number);
    if (atomic_fetch_add(&used, n_bytes) + n_bytes >= MOST_USED) {
        atomic_store(&used, 0);
        release();
    }
    return state;
}

void unmap_file(int number) {
    struct file_map *map = maps + number;
    pthread_mutex_lock(&changing);
    char *begin = atomic_load(&map->begin), *end = atomic_load(&map->end);
    atomic_store(&map->end, NULL);
    munmap(begin, end - begin);
    close(map->descriptor);
    pthread_mutex_unlock(&changing);
}
