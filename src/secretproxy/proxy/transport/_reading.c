/* Reads from many sockets for one callback of the event loop, and sends on what goes on as it came.

   An event loop's own way costs more than the reading of a chunk does: a lock, a context and a queue of writes for each.
   Here a set of sockets has an epoll of its own, whose number the event loop watches. When it calls run(), each socket
   that has something is read from once; what was read goes to a function of Python's, and where that says so, to the
   peer's socket at once. This knows nothing of PostgreSQL and decides nothing. Whatever is not the commonest case is
   left to Python: what a socket does not take, an end, an error.

   Of an epoll within another one the kernel wakes the outer one too, and both are asked. So where the event loop is
   libuv's, it is turned around (lead): the process sleeps in this epoll, which has libuv's as one of its entries.

   An entry tells of changes only, so that the kernel does not look at each socket again before it sleeps: what a read may
   have left in its socket must be asked for anew (more_than_read). A client that sends urgent data or descriptors, as
   none of PostgreSQL's does, may have a chunk wait for its next one.

   All of it runs in the event loop's thread, with the interpreter's lock. It owns no socket: close() comes before a
   socket is closed. An epoll entry is a pointer to a Reader; the set keeps each Reader until its entry is gone.
   direct.py hands it out. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* recv() and send() go by syscall(): where there are threads, the C library's own take longer to note that theirs may be
   cancelled than all the rest takes here. */

/* Bytes of one read, as the event loop has them too, and sockets of one turn. */
#define CHUNK 262144
#define TURN 256

/* What a step says. Only where everything in a turn went on as it came, there is nothing for the event loop to do. */
#define FAILED (-1)
#define WENT_ON 0
#define DONE 1

/* How many times libuv goes before a new Reader where both have something. */
#define UNSURE 4

/* Told in place of an error's number where something was lost here. */
#define GAP -1

typedef struct {
    PyObject_HEAD
    int epoll;          /* -1: closed */
    PyObject *open;     /* a set of the Readers that have an entry */
    char *buffer;
    /* Where libuv's loop is led: the loop, our handles in it, and what is told of an error. NULL: it is not. */
    void *loop;
    struct Handle *prepare, *idle;
    PyObject *report;
    /* The events of a turn, and how many of them libuv goes before. */
    struct epoll_event events[TURN];
    int late;
} Readers;

typedef struct Reader {
    PyObject_HEAD
    int fd;             /* -1: closed, or not open yet */
    int reading;
    int ended;          /* nothing comes any more */
    int unsure;         /* how many times libuv goes before it */
    Readers *readers;
    struct Reader *peer;
    PyObject *take, *write, *over;
} Reader;

static PyTypeObject ReadersType, ReaderType;

/* --- one socket --- */

/* Changes the entry, which then tells of what is there already. One that is not read from tells of an error or a hangup
   alone, once. */
static int watch(Reader *self, int operation)
{
    uint32_t events = self->reading ? EPOLLIN | EPOLLRDHUP | EPOLLET : EPOLLET;
    struct epoll_event event = {.events = events, .data.ptr = self};
    if (epoll_ctl(self->readers->epoll, operation, self->fd, &event) == 0)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static int set_reading(Reader *self, int reading)
{
    if (self->fd < 0 || self->ended || self->readers->epoll < 0 || self->reading == reading)
        return 0;
    self->reading = reading;
    return watch(self, EPOLL_CTL_MOD);
}

/* Says that nothing comes any more: 0, the number of an error, or GAP. */
static int end(Reader *self, int number)
{
    /* An entry that cannot be changed is not read from either, and must not keep anybody from hearing of the end. */
    if (set_reading(self, 0) < 0)
        PyErr_Clear();
    self->ended = 1;
    PyObject *over = Py_NewRef(self->over);
    PyObject *done = PyObject_CallFunction(over, "i", number);
    Py_DECREF(over);
    Py_XDECREF(done);
    return done == NULL ? FAILED : DONE;
}

/* Ends a connection of which something was read that did not go on, for whatever error: nothing may go on behind it, for
   the session would take other bytes for messages than its peer does. Leaves the error. */
static int leave_gap(Reader *self)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (self->fd >= 0 && end(self, GAP) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, trace);
    return FAILED;
}

/* Sends a chunk; what the socket does not take, for whatever reason, goes the ordinary way. */
static int send_on(Reader *peer, PyObject *data)
{
    if (peer == NULL || peer->fd < 0) {
        PyErr_SetString(PyExc_RuntimeError, "there is no socket to send to");
        return FAILED;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    ssize_t sent;
    do
        sent = syscall(SYS_sendto, peer->fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    while (sent < 0 && errno == EINTR);
    if (sent == size)
        return WENT_ON;
    PyObject *rest = sent <= 0 ? Py_NewRef(data) : PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + sent, size - sent);
    if (rest == NULL)
        return FAILED;
    PyObject *write = Py_NewRef(peer->write);
    PyObject *done = PyObject_CallOneArg(write, rest);
    Py_DECREF(write);
    Py_DECREF(rest);
    Py_XDECREF(done);
    return done == NULL ? FAILED : DONE;
}

/* Whether a read may have left something: the kernel says nothing more of it. An end or an error that was there with the
   data has been told of with them. */
static int more_than_read(ssize_t size, uint32_t events)
{
    return size == CHUNK || events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
}

/* Reads once, told of `events`. The caller has a reference to `self`, whose functions may close it. */
static int read_once(Reader *self, uint32_t events)
{
    char *buffer = self->readers->buffer;
    ssize_t size;
    do
        size = syscall(SYS_recvfrom, self->fd, buffer, CHUNK, MSG_DONTWAIT, NULL, NULL);
    while (size < 0 && errno == EINTR);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return WENT_ON;
    if (size <= 0)
        return end(self, size < 0 ? errno : 0);
    PyObject *data = PyBytes_FromStringAndSize(buffer, size);
    if (data == NULL)
        return leave_gap(self);
    if (more_than_read(size, events) && watch(self, EPOLL_CTL_MOD) < 0) {
        Py_DECREF(data);
        return leave_gap(self);
    }
    PyObject *take = Py_NewRef(self->take);
    PyObject *took = PyObject_CallOneArg(take, data);
    Py_DECREF(take);
    int done = took == NULL ? FAILED : DONE;
    if (took == Py_True)
        done = send_on(self->peer, data);
    Py_XDECREF(took);
    Py_DECREF(data);
    return done == FAILED ? leave_gap(self) : done;
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Readers *readers;
    int fd;
    PyObject *take, *write, *over;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Reader() takes no names of arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!iOOO", &ReadersType, &readers, &fd, &take, &write, &over))
        return NULL;
    if (fd < 0 || readers->epoll < 0) {
        errno = EBADF;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = -1;
    self->readers = (Readers *)Py_NewRef(readers);
    self->take = Py_NewRef(take);
    self->write = Py_NewRef(write);
    self->over = Py_NewRef(over);
    self->fd = fd;
    self->unsure = UNSURE;
    if (watch(self, EPOLL_CTL_ADD) < 0)
        self->fd = -1;
    else if (PySet_Add(readers->open, (PyObject *)self) == 0)
        return (PyObject *)self;
    else
        epoll_ctl(readers->epoll, EPOLL_CTL_DEL, fd, NULL);
    Py_DECREF(self);
    return NULL;
}

static PyObject *reader_join(Reader *self, PyObject *peer)
{
    if (!Py_IS_TYPE(peer, &ReaderType)) {
        PyErr_SetString(PyExc_TypeError, "the peer is no Reader");
        return NULL;
    }
    Py_XSETREF(self->peer, (Reader *)Py_NewRef(peer));
    Py_RETURN_NONE;
}

static PyObject *reader_send(Reader *self, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "bytes are sent");
        return NULL;
    }
    if (self->fd < 0)
        Py_RETURN_FALSE;
    if (send_on(self, data) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *reader_resume(Reader *self, PyObject *unused)
{
    if (set_reading(self, 1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *reader_pause(Reader *self, PyObject *unused)
{
    if (set_reading(self, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int reader_clear(Reader *self)
{
    self->fd = -1;
    self->reading = 0;
    Py_CLEAR(self->peer);
    Py_CLEAR(self->take);
    Py_CLEAR(self->write);
    Py_CLEAR(self->over);
    return 0;
}

static PyObject *reader_close(Reader *self, PyObject *unused)
{
    if (self->fd < 0)
        Py_RETURN_NONE;
    Readers *readers = self->readers;
    for (int i = 0; i < readers->late; i++)
        if (readers->events[i].data.ptr == self)
            readers->events[i].data.ptr = NULL;
    /* Where somebody has closed the socket before, an entry of the same connection may still have the pointer, and the
       set keeps what it points to. */
    int gone = readers->epoll < 0 || epoll_ctl(readers->epoll, EPOLL_CTL_DEL, self->fd, NULL) == 0;
    reader_clear(self);
    if (gone && readers->open != NULL && PySet_Discard(readers->open, (PyObject *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int reader_traverse(Reader *self, visitproc visit, void *arg)
{
    Py_VISIT(self->readers);
    Py_VISIT(self->peer);
    Py_VISIT(self->take);
    Py_VISIT(self->write);
    Py_VISIT(self->over);
    return 0;
}

static void reader_dealloc(Reader *self)
{
    /* One with an entry is in the set, or the set is gone with its epoll. */
    PyObject_GC_UnTrack(self);
    reader_clear(self);
    Py_CLEAR(self->readers);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef reader_methods[] = {
    {"join", (PyCFunction)reader_join, METH_O, "Takes the Reader that chunks go on to."},
    {"send", (PyCFunction)reader_send, METH_O, "Sends a chunk to this socket."},
    {"resume", (PyCFunction)reader_resume, METH_NOARGS, "Reads from the socket."},
    {"pause", (PyCFunction)reader_pause, METH_NOARGS, "Reads no more for now."},
    {"close", (PyCFunction)reader_close, METH_NOARGS, "Lets go of the socket, before it is closed."},
    {NULL},
};

static PyTypeObject ReaderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "secretproxy.proxy.transport._reading.Reader",
    .tp_doc = "Reads from one socket; see direct.py.",
    .tp_basicsize = sizeof(Reader),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = reader_new,
    .tp_dealloc = (destructor)reader_dealloc,
    .tp_traverse = (traverseproc)reader_traverse,
    .tp_clear = (inquiry)reader_clear,
    .tp_methods = reader_methods,
};

/* --- the set of them --- */

static PyObject *readers_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    if (PyTuple_GET_SIZE(args) > 0 || (keywords != NULL && PyDict_GET_SIZE(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Readers() takes no arguments");
        return NULL;
    }
    Readers *self = (Readers *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else if ((self->buffer = PyMem_Malloc(CHUNK)) == NULL)
        PyErr_NoMemory();
    else if ((self->open = PySet_New(NULL)) != NULL)
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static PyObject *readers_fileno(Readers *self, PyObject *unused)
{
    return PyLong_FromLong(self->epoll);
}

/* Reads once from each socket that there are events of. An error of one stops nobody else; the first is left set. The
   caller has a reference to `self`. */
static int read_all(Readers *self, struct epoll_event *events, int count)
{
    /* What is called below may close any of them; what was closed before is no Reader any more. */
    for (int i = 0; i < count; i++)
        Py_XINCREF((PyObject *)events[i].data.ptr);
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    int all = WENT_ON;
    for (int i = 0; i < count && self->epoll >= 0; i++) {
        Reader *reader = events[i].data.ptr;
        int done = reader != NULL && reader->reading ? read_once(reader, events[i].events) : WENT_ON;
        if (done == WENT_ON)
            continue;
        all = DONE;
        if (done != FAILED)
            continue;
        if (type == NULL)
            PyErr_Fetch(&type, &value, &trace);
        else
            PyErr_WriteUnraisable((PyObject *)reader);
    }
    for (int i = 0; i < count; i++)
        Py_XDECREF((PyObject *)events[i].data.ptr);
    if (type == NULL)
        return self->epoll >= 0 ? all : DONE;
    PyErr_Restore(type, value, trace);
    return FAILED;
}

static PyObject *readers_run(Readers *self, PyObject *unused)
{
    struct epoll_event events[TURN];
    if (self->epoll < 0)
        Py_RETURN_NONE;
    int count = epoll_wait(self->epoll, events, TURN, 0);
    if (count < 0) {
        if (errno == EINTR)
            Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (read_all(self, events, count) == FAILED)
        return NULL;
    Py_RETURN_NONE;
}

/* --- libuv's loop, led --- */

/* What libuv documents for a loop that is embedded in another one, and for handles, by their types and numbers of
   version 1, which do not change. uvloop's library has them, and gives the loop for such use. */
#define MAJOR 1
#define UV_IDLE 6
#define UV_PREPARE 9
typedef void (*callback)(void *handle);
static struct {
    unsigned (*version)(void);
    size_t (*handle_size)(int type);
    int (*backend_fd)(const void *loop);
    int (*backend_timeout)(const void *loop);
    void (*update_time)(void *loop);
    void (*unref)(void *handle);
    void (*close)(void *handle, callback closed);
    int (*prepare_init)(void *loop, void *handle);
    int (*prepare_start)(void *handle, callback run);
    int (*idle_init)(void *loop, void *handle);
    int (*idle_start)(void *handle, callback run);
    int (*idle_stop)(void *handle);
} uv;

/* A handle of libuv's, of the size that it says, behind whose it is: uvloop takes what a handle itself points to for one
   of its own objects. */
typedef struct Handle {
    Readers *readers;
    max_align_t uv[];
} Handle;

static Handle *handle_of(void *handle)
{
    return (Handle *)((char *)handle - offsetof(Handle, uv));
}

static int find_libuv(const char *library)
{
    static const struct { const char *name; void *at; } wanted[] = {
        {"uv_version", &uv.version},
        {"uv_handle_size", &uv.handle_size},
        {"uv_backend_fd", &uv.backend_fd},
        {"uv_backend_timeout", &uv.backend_timeout},
        {"uv_update_time", &uv.update_time},
        {"uv_unref", &uv.unref},
        {"uv_close", &uv.close},
        {"uv_prepare_init", &uv.prepare_init},
        {"uv_prepare_start", &uv.prepare_start},
        {"uv_idle_init", &uv.idle_init},
        {"uv_idle_start", &uv.idle_start},
        {"uv_idle_stop", &uv.idle_stop},
    };
    void *opened = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (opened == NULL)
        return 0;
    int found = 1;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *function = dlsym(opened, wanted[i].name);
        memcpy(wanted[i].at, &function, sizeof function);
        found &= function != NULL;
    }
    dlclose(opened);
    return found && uv.version() >> 16 == MAJOR;
}

static Handle *new_handle(Readers *self, int type)
{
    size_t size = uv.handle_size(type);
    Handle *made = size > 4096 ? NULL : PyMem_RawCalloc(1, sizeof(Handle) + size);
    if (made != NULL)
        made->readers = self;
    return made;
}

static void handle_closed(void *handle)
{
    PyMem_RawFree(handle_of(handle));
}

static void do_nothing(void *handle)
{
}

/* Tells the event loop of an error, which a callback of libuv's cannot raise. */
static void report_error(Readers *self)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *done = self->report == NULL ? NULL : PyObject_CallOneArg(self->report, error);
    if (done == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetRaisedException(Py_NewRef(error));
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    Py_DECREF(error);
}

/* Takes libuv's own event out of those of a turn. Gives whether there was one. */
static int take_out_libuv(struct epoll_event *events, int *count)
{
    for (int i = 0; i < *count; i++)
        if (events[i].data.ptr == NULL) {
            events[i] = events[--*count];
            return 1;
        }
    return 0;
}

/* Says whether libuv may still have one of these sockets in its epoll, and counts that it was let go before them. */
static int unsure(struct epoll_event *events, int count)
{
    int found = 0;
    for (int i = 0; i < count; i++) {
        Reader *reader = events[i].data.ptr;
        if (reader->unsure > 0) {
            reader->unsure--;
            found = 1;
        }
    }
    return found;
}

/* Sleeps in libuv's place, which calls this before it does, without the interpreter's lock. It comes back as soon as
   libuv's loop may have something to do: a socket of its own, a timer, or what a chunk has led to. libuv then looks,
   but does not sleep, as there is an idle handle.

   Where both have something, the sockets go first: what they say may go to the log in the group that libuv is about to
   have written. But libuv's epoll may still have a socket whose transport reads no more. libuv takes it out only if it
   finds something there, and would be woken for each chunk of it. So it goes before the first chunks of a Reader. */
static void before_sleep(void *handle)
{
    Readers *self = handle_of(handle)->readers;
    uv.idle_stop(self->idle->uv);
    /* Changed by this thread alone. Without a socket here libuv sleeps better by itself. */
    if (PySet_GET_SIZE(self->open) == 0)
        return;
    int again = 0;
    do {
        int count = self->late, timeout = -1, both = 0;
        self->late = 0;
        if (count == 0) {
            timeout = uv.backend_timeout(self->loop);
            count = epoll_wait(self->epoll, self->events, TURN, timeout);
            uv.update_time(self->loop);
            both = count > 0 && take_out_libuv(self->events, &count);
            if (both && unsure(self->events, count)) {
                self->late = count;
                break;
            }
        }
        if (count <= 0)
            break;
        PyGILState_STATE state = PyGILState_Ensure();
        Py_INCREF(self);
        int done = read_all(self, self->events, count);
        if (done == FAILED)
            report_error(self);
        again = done == WENT_ON && timeout != 0 && !both;
        int closed = self->epoll < 0;
        Py_DECREF(self);
        PyGILState_Release(state);
        if (closed)
            return;
    } while (again);
    uv.idle_start(self->idle->uv, do_nothing);
}

static PyObject *readers_lead(Readers *self, PyObject *args)
{
    PyObject *capsule, *report;
    const char *library;
    if (!PyArg_ParseTuple(args, "OsO", &capsule, &library, &report))
        return NULL;
    void *loop = PyCapsule_GetPointer(capsule, NULL);
    if (loop == NULL)
        return NULL;
    if (self->epoll < 0 || self->loop != NULL || !find_libuv(library))
        Py_RETURN_FALSE;
    Handle *prepare = new_handle(self, UV_PREPARE), *idle = new_handle(self, UV_IDLE);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (prepare == NULL || idle == NULL || epoll_ctl(self->epoll, EPOLL_CTL_ADD, uv.backend_fd(loop), &event) < 0) {
        PyMem_RawFree(prepare);
        PyMem_RawFree(idle);
        Py_RETURN_FALSE;
    }
    /* None of these fails: they do no more than enter a handle in a list. */
    uv.idle_init(loop, idle->uv);
    uv.unref(idle->uv);
    uv.prepare_init(loop, prepare->uv);
    uv.unref(prepare->uv);
    uv.prepare_start(prepare->uv, before_sleep);
    self->loop = loop;
    self->prepare = prepare;
    self->idle = idle;
    self->report = Py_NewRef(report);
    /* Until close(): libuv has its address. */
    Py_INCREF(self);
    Py_RETURN_TRUE;
}

/* --- the end of a set --- */

static int readers_clear(Readers *self)
{
    if (self->epoll >= 0)
        close(self->epoll);
    self->epoll = -1;
    Py_CLEAR(self->open);
    Py_CLEAR(self->report);
    return 0;
}

static PyObject *readers_close(Readers *self, PyObject *unused)
{
    int leads = self->loop != NULL;
    if (leads) {
        self->loop = NULL;
        uv.close(self->prepare->uv, handle_closed);
        uv.close(self->idle->uv, handle_closed);
        self->prepare = self->idle = NULL;
    }
    readers_clear(self);
    if (leads)
        Py_DECREF(self);
    Py_RETURN_NONE;
}

static int readers_traverse(Readers *self, visitproc visit, void *arg)
{
    Py_VISIT(self->open);
    Py_VISIT(self->report);
    return 0;
}

static void readers_dealloc(Readers *self)
{
    PyObject_GC_UnTrack(self);
    readers_clear(self);
    PyMem_Free(self->buffer);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef readers_methods[] = {
    {"fileno", (PyCFunction)readers_fileno, METH_NOARGS, "Gives the number that the event loop watches."},
    {"run", (PyCFunction)readers_run, METH_NOARGS, "Reads once from each socket that has something."},
    {"lead", (PyCFunction)readers_lead, METH_VARARGS, "Has libuv's loop sleep here; gives whether it does."},
    {"close", (PyCFunction)readers_close, METH_NOARGS, "Reads from none of them any more."},
    {NULL},
};

static PyTypeObject ReadersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "secretproxy.proxy.transport._reading.Readers",
    .tp_doc = "A set of sockets; see direct.py.",
    .tp_basicsize = sizeof(Readers),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = readers_new,
    .tp_dealloc = (destructor)readers_dealloc,
    .tp_traverse = (traverseproc)readers_traverse,
    .tp_clear = (inquiry)readers_clear,
    .tp_methods = readers_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_reading",
    .m_doc = "Reads from many sockets for one callback of the event loop; see direct.py.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__reading(void)
{
    if (PyType_Ready(&ReadersType) < 0)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    if (PyModule_AddType(made, &ReadersType) < 0 || PyModule_AddType(made, &ReaderType) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
