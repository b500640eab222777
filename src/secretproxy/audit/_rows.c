/* Writes the line of a row whose fields are texts already, as Lines.add() and Line.plain() of rows.py do, for a tenth of
   the instructions. Escapes and masks nothing, and keeps nothing. What it gives None for, rows.py writes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MOST 4096   /* bytes of a line */
#define ROOM 256    /* of them for what is no text */
#define HASH 32

static const char HEX[] = "0123456789abcdef";

static char *hexed(char *to, const unsigned char *from, int size)
{
    for (int i = 0; i < size; i++) {
        *to++ = HEX[from[i] >> 4];
        *to++ = HEX[from[i] & 15];
    }
    return to;
}

static char *null(char *to)
{
    *to++ = '\\';
    *to++ = 'N';
    return to;
}

static char *number(char *to, long long value)
{
    char digits[24], *at = digits + sizeof digits;
    unsigned long long left = value;
    do
        *--at = '0' + left % 10;
    while (left /= 10);
    size_t size = digits + sizeof digits - at;
    memcpy(to, at, size);
    return to + size;
}

/* Microseconds below a second as a fraction, without the zeros at its end. */
static char *fraction(char *to, long long micros)
{
    if (micros == 0)
        return to;
    *to++ = '.';
    for (int i = 5; i >= 0; i--, micros /= 10)
        to[i] = '0' + micros % 10;
    to += 6;
    while (to[-1] == '0')
        to--;
    return to;
}

/* A random UUID (version 4). */
static char *id(char *to, const unsigned char *drawn)
{
    unsigned char made[16];
    memcpy(made, drawn, sizeof made);
    made[6] = (made[6] & 0x0f) | 0x40;
    made[8] = (made[8] & 0x3f) | 0x80;
    static const int groups[] = {4, 2, 2, 2, 6};
    const unsigned char *at = made;
    for (int i = 0; i < 5; at += groups[i++]) {
        if (i)
            *to++ = '-';
        to = hexed(to, at, groups[i]);
    }
    return to;
}

/* What the arguments of line() are, in the order of the columns. */
enum {
    INSTANCE, SEQ, DRAWN, MOMENT, MICROS, EVENT, SESSION, STATEMENT_NO, CALLED, OWNER, NAMES, HOW, USER, ROLE,
    ACCESSED_BY, CLIENT, OUTCOME, DURATION, CALLS, COUNT
};

static PyObject *line(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != COUNT) {
        PyErr_SetString(PyExc_TypeError, "a line has other fields");
        return NULL;
    }
    char made[MOST], *to = made;
    for (int i = 0; i < COUNT; i++) {
        PyObject *field = given[i];
        int is_number = i == SEQ || i == MICROS || i == STATEMENT_NO || i == DURATION || i == CALLS;
        if (i && i != MICROS)
            *to++ = '\t';
        if (is_number) {
            int overflow;
            long long value = PyLong_Check(field) ? PyLong_AsLongLongAndOverflow(field, &overflow) : -1;
            if (field == Py_None && i != SEQ && i != MICROS)
                to = null(to);
            else if (!PyLong_Check(field) || overflow || value < 0)
                Py_RETURN_NONE;
            else if (i != MICROS && i != DURATION)
                to = number(to, value);
            else if (value >= 1000000)
                Py_RETURN_NONE;
            else if (i == MICROS) {
                to = fraction(to, value);
                memcpy(to, "+00", 3);
                to += 3;
            } else if (value < 100)
                /* PostgreSQL writes it with an exponent. */
                Py_RETURN_NONE;
            else {
                *to++ = '0';
                to = fraction(to, value);
            }
        } else if (i == DRAWN) {
            if (!PyBytes_Check(field) || PyBytes_GET_SIZE(field) != 16)
                Py_RETURN_NONE;
            to = id(to, (const unsigned char *)PyBytes_AS_STRING(field));
        } else {
            Py_ssize_t size;
            const char *text = PyUnicode_Check(field) ? PyUnicode_AsUTF8AndSize(field, &size) : NULL;
            if (text == NULL && PyErr_Occurred())
                return NULL;
            if (text == NULL || size > MOST - ROOM - (to - made))
                Py_RETURN_NONE;
            memcpy(to, text, size);
            to += size;
        }
    }
    return PyBytes_FromStringAndSize(made, to - made);
}

static PyObject *plain(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    for (int i = 0; i < 3; i++) {
        if (count != 3 || !PyBytes_Check(given[i]) || (i && PyBytes_GET_SIZE(given[i]) != HASH)) {
            PyErr_SetString(PyExc_TypeError, "a row is its line and two hashes");
            return NULL;
        }
    }
    Py_ssize_t size = PyBytes_GET_SIZE(given[0]);
    PyObject *made = PyBytes_FromStringAndSize(NULL, size + 2 * (3 + 2 * HASH));
    if (made == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(made);
    memcpy(to, PyBytes_AS_STRING(given[0]), size);
    to += size;
    for (int i = 1; i < 3; i++) {
        memcpy(to, "\t\\x", 3);
        to = hexed(to + 3, (const unsigned char *)PyBytes_AS_STRING(given[i]), HASH);
    }
    return made;
}

static PyMethodDef methods[] = {
    {"line", (PyCFunction)(void (*)(void))line, METH_FASTCALL, "Writes a line; see rows.py."},
    {"plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL, "Writes a row; see rows.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_rows",
    .m_doc = "Writes lines of the log; see rows.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__rows(void)
{
    return PyModule_Create(&module);
}
