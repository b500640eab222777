/* Walks the messages of chunks of the commonest form, as walk_client() and walk_backend() of walk.py do, for a tenth of
   the instructions. Reads bytes and gives numbers; keeps nothing. What they mean, walk.py says; both must give the same
   for every chunk (tests/unit/test_plain.py). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MOST 8192
#define MOST_NAME 63

enum { EXTENDED = 1, PARSED = 2, DESCRIBED = 4 };

/* A length as it stands in a message whose first five bytes are there. */
static int64_t length_at(const unsigned char *at)
{
    return (int64_t)at[1] << 24 | at[2] << 16 | at[3] << 8 | at[4];
}

/* Whether a whole message of this type and length is at `pos`. */
static int stands(const unsigned char *data, int64_t size, int64_t pos, int kind, int64_t length)
{
    return size - pos > length && data[pos] == kind && length_at(data + pos) == length;
}

/* The position behind the message at `pos`, of which five bytes are there; all of the data if it has no such length. */
static int64_t behind(const unsigned char *data, int64_t size, int64_t pos)
{
    int64_t length = length_at(data + pos);
    return length >= 4 && length < size - pos ? pos + 1 + length : size;
}

static long client(const unsigned char *data, int64_t size)
{
    int64_t start = 0, text_end = 0;
    long found = EXTENDED;
    if (size < 25 || size > MOST)
        return 0;
    if (data[0] == 'P') {
        start = 1 + length_at(data);
        if (start < 8 || start > size || data[5] != 0)
            return 0;
        const unsigned char *zero = memchr(data + 6, 0, start - 6);
        if (zero == NULL)
            return 0;
        text_end = zero - data;
        found |= PARSED;
    }
    if (size - start < 25 || data[start] != 'B' || data[start + 5] != 0)
        return 0;
    int64_t pos = start + 6, end = start + 1 + length_at(data + start);
    if (end <= pos || end > size)
        return 0;
    int64_t most = end - pos < MOST_NAME + 1 ? end - pos : MOST_NAME + 1;
    const unsigned char *zero = memchr(data + pos, 0, most);
    if (zero == NULL)
        return 0;
    long name = zero - (data + pos);
    if (name > 0 && found & PARSED)
        return 0;
    if (stands(data, size, end, 'D', 6) && data[end + 5] == 'P' && data[end + 6] == 0) {
        found |= DESCRIBED;
        end += 7;
    }
    if (!stands(data, size, end, 'E', 9) || data[end + 5] != 0)
        return 0;
    end += 10;
    if (!stands(data, size, end, 'S', 4) || end + 5 != size)
        return 0;
    return found | name << 3 | (long)text_end << 9;
}

static int means_nothing(const unsigned char *tag)
{
    static const char known[][4] = {"SEL", "INS", "UPD", "DEL", "BEG", "COM"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (memcmp(tag, known[i], 3) == 0)
            return 1;
    return 0;
}

static long backend(const unsigned char *data, int64_t size, long asked)
{
    int64_t pos = 0;
    if (asked & EXTENDED) {
        if (asked & PARSED) {
            if (!stands(data, size, pos, '1', 4))
                return 0;
            pos += 5;
        }
        if (!stands(data, size, pos, '2', 4))
            return 0;
        pos += 5;
        if (asked & DESCRIBED) {
            if (size - pos < 5 || (data[pos] != 'T' && data[pos] != 'n'))
                return 0;
            pos = behind(data, size, pos);
        }
    } else if (size > 5 && data[0] == 'T')
        pos = behind(data, size, 0);
    while (size - pos >= 5 && data[pos] == 'D')
        pos = behind(data, size, pos);
    if (size - pos < 14 || data[pos] != 'C' || size - 6 != pos + 1 + length_at(data + pos))
        return 0;
    if (!means_nothing(data + pos + 5) || !stands(data, size, size - 6, 'Z', 5))
        return 0;
    int status = data[size - 1];
    return status == 'I' || status == 'T' ? status : 0;
}

static PyObject *walk_client(PyObject *module, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "bytes are walked");
        return NULL;
    }
    return PyLong_FromLong(client((const unsigned char *)PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)));
}

static PyObject *walk_backend(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "bytes are walked, and a number says for what");
        return NULL;
    }
    long asked = PyLong_AsLong(arguments[1]);
    if (asked == -1 && PyErr_Occurred())
        return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(arguments[0]);
    return PyLong_FromLong(backend(data, PyBytes_GET_SIZE(arguments[0]), asked));
}

static PyMethodDef methods[] = {
    {"walk_client", walk_client, METH_O, "Walks a chunk of the client's; see walk.py."},
    {"walk_backend", (PyCFunction)(void (*)(void))walk_backend, METH_FASTCALL, "Walks an answer; see walk.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_walk",
    .m_doc = "Walks the messages of chunks of the commonest form; see walk.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__walk(void)
{
    return PyModule_Create(&module);
}
