/* Cuts a testimony of the second form into its parts, as cut() of quoted.py does, for a tenth of the instructions. Reads
   bytes and gives values; checks no MAC and keeps nothing. What it gives None for, quoted.py cuts. */

#define _GNU_SOURCE /* memmem() */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MAC_SIZE 32
#define MOST 1024    /* bytes of the testimony, in hexadecimal twice as many */
#define BEHIND 5     /* where KEY begins: behind "SPX2 " */

/* The number that a hexadecimal digit stands for, 16 where it is none. By no table, so that the compiler reads several
   digits at once. */
static inline uint8_t worth(uint8_t digit)
{
    uint8_t number = (uint8_t)(digit - '0'), letter = (uint8_t)((digit | 0x20) - 'a');
    return number < 10 ? number : letter < 6 ? (uint8_t)(letter + 10) : 16;
}

static int unhexed(const unsigned char *restrict from, Py_ssize_t size, unsigned char *restrict to)
{
    uint8_t all = 0;
    for (Py_ssize_t i = 0; i < size / 2; i++) {
        uint8_t high = worth(from[2 * i]), low = worth(from[2 * i + 1]);
        all |= high | low;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return all < 16;
}

/* Reads sixteen hexadecimal digits; false where they are others. */
static int clock_at(const unsigned char *at, uint64_t *clock)
{
    *clock = 0;
    for (int i = 0; i < 16; i++) {
        unsigned found = worth(at[i]);
        if (found > 15)
            return 0;
        *clock = *clock << 4 | found;
    }
    return 1;
}

/* The text between two marks, which has none itself. */
static PyObject *text(const unsigned char *begin, const unsigned char *end)
{
    return PyUnicode_DecodeUTF8((const char *)begin, end - begin, "surrogateescape");
}

static PyObject *parts_of(const unsigned char *message, Py_ssize_t size)
{
    unsigned char raw[MOST];
    if (size & 1 || size > 2 * MOST || size < 2 * (MAC_SIZE + BEHIND) || !unhexed(message, size, raw))
        Py_RETURN_NONE;
    const unsigned char *end = raw + size / 2 - MAC_SIZE;

    /* Behind SPX2: KEY PID START, CLOCK, FUNCTION OWNER JWT_USER, and the texts. */
    const unsigned char *at = raw, *after[8];
    for (int i = 0; i < 8; i++) {
        const unsigned char *blank = memchr(at, ' ', end - at);
        if (blank == NULL)
            Py_RETURN_NONE;
        after[i] = at = blank + 1;
    }
    if (after[0] != raw + BEHIND || after[4] - after[3] != 17)
        Py_RETURN_NONE;
    uint64_t clock;
    if (!clock_at(after[3], &clock))
        Py_RETURN_NONE;

    /* 'NAME' 'SESSION_USER' 'ROLE', with no mark in any of them. */
    const unsigned char *mark[6];
    for (int i = 0; i < 6; i++) {
        mark[i] = memchr(at, '\'', end - at);
        if (mark[i] == NULL || (i == 0 && mark[i] != at) || (i & 1 ? 0 : i && (mark[i] != at + 1 || *at != ' ')))
            Py_RETURN_NONE;
        at = mark[i] + 1;
    }
    if (at != end)
        Py_RETURN_NONE;

    PyObject *parts[8] = {
        PyBytes_FromStringAndSize((const char *)raw, end - raw),
        PyBytes_FromStringAndSize((const char *)end, MAC_SIZE),
        PyBytes_FromStringAndSize((const char *)after[0], after[3] - 1 - after[0]),
        PyLong_FromUnsignedLongLong(clock),
        PyBytes_FromStringAndSize((const char *)after[4], after[7] - 1 - after[4]),
        text(mark[0] + 1, mark[1]),
        text(mark[2] + 1, mark[3]),
        text(mark[4] + 1, mark[5]),
    };
    PyObject *made = PyTuple_New(8);
    int failed = made == NULL;
    for (int i = 0; i < 8; i++)
        failed |= parts[i] == NULL;
    for (int i = 0; i < 8; i++) {
        if (failed)
            Py_XDECREF(parts[i]);
        else
            PyTuple_SET_ITEM(made, i, parts[i]);
    }
    if (failed)
        Py_CLEAR(made);
    return made;
}

static PyObject *cut(PyObject *module, PyObject *message)
{
    if (!PyBytes_Check(message)) {
        PyErr_SetString(PyExc_TypeError, "a testimony is bytes");
        return NULL;
    }
    return parts_of((const unsigned char *)PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message));
}

/* The fields of a notice from `pos` to `end`: that of the SQLSTATE and the message behind it, as BEGUN of quoted.py has them. No
   field has a NUL in it. */
static const char BEGUN[] = "\0CSPX01\0M5350583220";
#define BEFORE_MESSAGE 9

/* Finds the message of a notice that is given as bytes, from and to a position; NULL where it has none of this form, or
   with an error. */
static const unsigned char *message_of(PyObject *const *given, Py_ssize_t *size)
{
    Py_ssize_t pos = PyLong_AsSsize_t(given[1]), end = PyLong_AsSsize_t(given[2]);
    if (PyErr_Occurred() || pos < 0 || end < pos || end > PyBytes_GET_SIZE(given[0]))
        return NULL;
    const char *fields = PyBytes_AS_STRING(given[0]) + pos;
    const char *at = memmem(fields, end - pos, BEGUN, sizeof BEGUN - 1);
    const char *stop = at == NULL ? NULL : memchr(at + BEFORE_MESSAGE, 0, fields + (end - pos) - (at + BEFORE_MESSAGE));
    if (stop == NULL)
        return NULL;
    at += BEFORE_MESSAGE;
    *size = stop - at;
    return (const unsigned char *)at;
}

static PyObject *heard(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "a notice is bytes, from and to a position");
        return NULL;
    }
    Py_ssize_t size;
    const unsigned char *message = message_of(given, &size);
    if (message == NULL && PyErr_Occurred())
        return NULL;
    if (message == NULL)
        Py_RETURN_NONE;
    return parts_of(message, size);
}

/* Moves on behind a part that is as expected; NULL where another one stands there. */
static const unsigned char *behind(const unsigned char *at, const unsigned char *end, const char *part, Py_ssize_t size)
{
    return at != NULL && end - at >= size && memcmp(at, part, size) == 0 ? at + size : NULL;
}

/* What the arguments of again() are behind the notice and its span, all of them bytes but for the name. */
enum { BEGUN_AS = 3, FUNCTION, OWNER, JWT_USER, NAME_IS, TEXTS, COUNT };

static PyObject *again(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != COUNT || !PyBytes_Check(given[0]) || !PyUnicode_Check(given[NAME_IS])) {
        PyErr_SetString(PyExc_TypeError, "a notice and what is expected of it are bytes");
        return NULL;
    }
    const char *parts[COUNT];
    Py_ssize_t sizes[COUNT];
    for (int i = BEGUN_AS; i < COUNT; i++) {
        if (i == NAME_IS) {
            parts[i] = PyUnicode_AsUTF8AndSize(given[i], &sizes[i]);
            if (parts[i] == NULL) {
                PyErr_Clear();
                Py_RETURN_NONE;
            }
        } else if (PyBytes_Check(given[i])) {
            parts[i] = PyBytes_AS_STRING(given[i]);
            sizes[i] = PyBytes_GET_SIZE(given[i]);
        } else {
            PyErr_SetString(PyExc_TypeError, "a notice and what is expected of it are bytes");
            return NULL;
        }
    }
    if (memchr(parts[NAME_IS], '\'', sizes[NAME_IS]) != NULL || memchr(parts[NAME_IS], '\\', sizes[NAME_IS]) != NULL)
        Py_RETURN_NONE;
    Py_ssize_t size;
    const unsigned char *message = message_of(given, &size);
    if (message == NULL && PyErr_Occurred())
        return NULL;
    unsigned char raw[MOST];
    if (message == NULL || size & 1 || size > 2 * MOST || size < 2 * (MAC_SIZE + BEHIND) || !unhexed(message, size, raw))
        Py_RETURN_NONE;
    const unsigned char *end = raw + size / 2 - MAC_SIZE, *at = behind(raw, end, "SPX2 ", BEHIND);
    at = behind(at, end, parts[BEGUN_AS], sizes[BEGUN_AS]);
    at = behind(at, end, " ", 1);
    uint64_t clock;
    if (at == NULL || end - at < 16 || !clock_at(at, &clock))
        Py_RETURN_NONE;
    at = behind(at + 16, end, " ", 1);
    at = behind(at, end, parts[FUNCTION], sizes[FUNCTION]);
    at = behind(at, end, " ", 1);
    at = behind(at, end, parts[OWNER], sizes[OWNER]);
    at = behind(at, end, " ", 1);
    at = behind(at, end, parts[JWT_USER], sizes[JWT_USER]);
    at = behind(at, end, " '", 2);
    at = behind(at, end, parts[NAME_IS], sizes[NAME_IS]);
    at = behind(at, end, "' ", 2);
    at = behind(at, end, parts[TEXTS], sizes[TEXTS]);
    if (at != end)
        Py_RETURN_NONE;
    PyObject *signed_ = PyBytes_FromStringAndSize((const char *)raw, end - raw);
    PyObject *mac = PyBytes_FromStringAndSize((const char *)end, MAC_SIZE);
    PyObject *when = PyLong_FromUnsignedLongLong(clock);
    PyObject *made = signed_ == NULL || mac == NULL || when == NULL ? NULL : PyTuple_Pack(3, signed_, mac, when);
    Py_XDECREF(signed_);
    Py_XDECREF(mac);
    Py_XDECREF(when);
    return made;
}

static PyMethodDef methods[] = {
    {"cut", cut, METH_O, "Cuts a testimony; see quoted.py."},
    {"again", (PyCFunction)(void (*)(void))again, METH_FASTCALL, "Reads one that is as expected; see quoted.py."},
    {"heard", (PyCFunction)(void (*)(void))heard, METH_FASTCALL, "Cuts that in a notice; see quoted.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_quoted",
    .m_doc = "Cuts a testimony of the second form into its parts; see quoted.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__quoted(void)
{
    return PyModule_Create(&module);
}
