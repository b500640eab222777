/* Reads strings and the fields of a Bind, as cstring() and read_bind() of messages.py do, for a fifth of the
   instructions. What it gives None for, messages.py reads, and says what is wrong with it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

typedef struct {
    const unsigned char *at, *end;
} Span;

/* The bytes of a message from `pos` to `end`. False, with an error set or not, where there are none such. */
static int span_of(Span *span, PyObject *const *given, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "bytes are read, from and to a position");
        return 0;
    }
    Py_ssize_t pos = PyLong_AsSsize_t(given[1]), end = PyLong_AsSsize_t(given[2]);
    if (PyErr_Occurred() || pos < 0 || end < pos || end > PyBytes_GET_SIZE(given[0]))
        return 0;
    span->at = (const unsigned char *)PyBytes_AS_STRING(given[0]) + pos;
    span->end = span->at + (end - pos);
    return 1;
}

static PyObject *nothing(void)
{
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* The next string; NULL without an error where it has no end. */
static PyObject *string(Span *span)
{
    const unsigned char *stop = memchr(span->at, 0, span->end - span->at);
    if (stop == NULL)
        return NULL;
    PyObject *made = PyBytes_FromStringAndSize((const char *)span->at, stop - span->at);
    span->at = stop + 1;
    return made;
}

/* The next unsigned number of so many bytes; -1 where they are not there. */
static int64_t number(Span *span, int bytes)
{
    int64_t value = 0;
    if (span->end - span->at < bytes)
        return -1;
    while (bytes--)
        value = value << 8 | *span->at++;
    return value;
}

static PyObject *cstring(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Span span;
    if (!span_of(&span, given, count))
        return nothing();
    PyObject *found = string(&span);
    if (found == NULL)
        return nothing();
    PyObject *behind = PyLong_FromSsize_t(span.at - (const unsigned char *)PyBytes_AS_STRING(given[0]));
    PyObject *made = behind == NULL ? NULL : PyTuple_Pack(2, found, behind);
    Py_DECREF(found);
    Py_XDECREF(behind);
    return made;
}

/* The format of each value: as many as there are, one for all, or none, which is text. */
static PyObject *formats(Span given, int64_t count, int64_t values)
{
    if (count > 1 && count != values)
        return NULL;
    PyObject *made = PyTuple_New(values);
    int64_t format = count == 1 ? number(&given, 2) : 0;
    for (int64_t i = 0; made != NULL && i < values; i++) {
        PyObject *one = PyLong_FromLongLong(count > 1 ? number(&given, 2) : format);
        if (one == NULL)
            Py_CLEAR(made);
        else
            PyTuple_SET_ITEM(made, i, one);
    }
    return made;
}

static PyObject *values(Span *span, int64_t count)
{
    PyObject *made = PyList_New(0);
    for (int64_t i = 0; made != NULL && i < count; i++) {
        int64_t size = number(span, 4);
        PyObject *value = NULL;
        if (size == 0xFFFFFFFF)
            value = Py_NewRef(Py_None);
        else if (size >= 0 && size <= span->end - span->at) {
            value = PyBytes_FromStringAndSize((const char *)span->at, size);
            span->at += size;
        }
        if (value == NULL || PyList_Append(made, value) < 0)
            Py_CLEAR(made);
        Py_XDECREF(value);
    }
    return made;
}

static PyObject *bind(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Span span;
    if (!span_of(&span, given, count))
        return nothing();
    PyObject *made = NULL, *found_formats = NULL, *found = NULL;
    PyObject *portal = string(&span), *statement = portal == NULL ? NULL : string(&span);
    if (statement != NULL) {
        int64_t format_count = number(&span, 2);
        Span at = span;
        if (format_count >= 0 && span.end - span.at >= 2 * format_count) {
            span.at += 2 * format_count;
            int64_t value_count = number(&span, 2);
            if (value_count >= 0 && value_count <= (span.end - span.at) / 4) {
                found = values(&span, value_count);
                found_formats = found == NULL ? NULL : formats(at, format_count, value_count);
            }
        }
    }
    if (found_formats != NULL)
        made = PyTuple_Pack(4, portal, statement, found_formats, found);
    Py_XDECREF(portal);
    Py_XDECREF(statement);
    Py_XDECREF(found_formats);
    Py_XDECREF(found);
    return made == NULL ? nothing() : made;
}

static PyMethodDef methods[] = {
    {"cstring", (PyCFunction)(void (*)(void))cstring, METH_FASTCALL, "Reads a string; see messages.py."},
    {"bind", (PyCFunction)(void (*)(void))bind, METH_FASTCALL, "Reads the fields of a Bind; see messages.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_messages",
    .m_doc = "Reads strings and the fields of a Bind; see messages.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__messages(void)
{
    return PyModule_Create(&module);
}
