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

/* The number that a hexadecimal digit stands for, 16 where it is none. */
static unsigned char WORTH[256];

static int unhexed(const unsigned char *from, Py_ssize_t size, unsigned char *to)
{
    unsigned all = 0;
    for (Py_ssize_t i = 0; i < size; i += 2) {
        unsigned high = WORTH[from[i]], low = WORTH[from[i + 1]];
        all |= high | low;
        *to++ = (unsigned char)(high << 4 | low);
    }
    return all < 16;
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
    uint64_t clock = 0;
    for (int i = 0; i < 16; i++) {
        unsigned found = WORTH[after[3][i]];
        if (found > 15)
            Py_RETURN_NONE;
        clock = clock << 4 | found;
    }

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

static PyObject *heard(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "a notice is bytes, from and to a position");
        return NULL;
    }
    Py_ssize_t pos = PyLong_AsSsize_t(given[1]), end = PyLong_AsSsize_t(given[2]);
    if (PyErr_Occurred())
        return NULL;
    if (pos < 0 || end < pos || end > PyBytes_GET_SIZE(given[0]))
        Py_RETURN_NONE;
    const char *fields = PyBytes_AS_STRING(given[0]) + pos;
    const char *at = memmem(fields, end - pos, BEGUN, sizeof BEGUN - 1);
    const char *stop = at == NULL ? NULL : memchr(at + BEFORE_MESSAGE, 0, fields + (end - pos) - (at + BEFORE_MESSAGE));
    if (stop == NULL)
        Py_RETURN_NONE;
    at += BEFORE_MESSAGE;
    return parts_of((const unsigned char *)at, stop - at);
}

static PyMethodDef methods[] = {
    {"cut", cut, METH_O, "Cuts a testimony; see quoted.py."},
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
    memset(WORTH, 16, sizeof WORTH);
    for (int i = 0; i < 16; i++)
        WORTH[(unsigned char)"0123456789abcdef"[i]] = WORTH[(unsigned char)"0123456789ABCDEF"[i]] = i;
    return PyModule_Create(&module);
}
