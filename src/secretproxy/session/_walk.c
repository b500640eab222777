/* Walks the messages of chunks of the commonest form, as the functions of walk.py do, for a tenth of the instructions. Reads bytes and gives numbers; keeps nothing. What they mean, walk.py says; both must give the same
   for every chunk (tests/unit/test_plain.py, test_reads.py). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MOST 8192
#define MOST_NAME 63

#define MOST_OWNER 128
#define MOST_SECRET 1024
#define BINARY_UUID 16
#define NOTICE_BITS 0xFFFFF

enum { EXTENDED = 1, PARSED = 2, DESCRIBED = 4, HEARD = 8 };
enum { ANSWER_ENDS = 1, NOTICE_SHIFT = 1, NOTICE_SIZE_SHIFT = 21 };

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

static int64_t answer(const unsigned char *data, int64_t size, long asked)
{
    int64_t pos = 0, notice = 0, notice_size = 0;
    if (size > NOTICE_BITS)
        return 0;
    if (!(asked & HEARD)) {
        if (asked & EXTENDED) {
            if (!stands(data, size, 0, '2', 4))
                return 0;
            pos = 5;
        }
        if (asked & DESCRIBED || !(asked & EXTENDED)) {
            if (size - pos < 5 || data[pos] != 'T')
                return 0;
            pos = behind(data, size, pos);
        }
        notice = pos;
        if (size - pos < 5 || data[pos] != 'N' || length_at(data + pos) < 4)
            return 0;
        notice_size = 1 + length_at(data + pos);
        pos += notice_size;
        if (pos > size)
            return 0;
        if (pos == size)
            return notice << NOTICE_SHIFT | notice_size << NOTICE_SIZE_SHIFT;
    }
    while (size - pos >= 5 && data[pos] == 'D')
        pos = behind(data, size, pos);
    if (size - pos < 14 || data[pos] != 'C' || size - 6 != pos + 1 + length_at(data + pos))
        return 0;
    if (memcmp(data + pos + 5, "SEL", 3) != 0 || !stands(data, size, size - 6, 'Z', 5) || data[size - 1] != 'I')
        return 0;
    return ANSWER_ENDS | notice << NOTICE_SHIFT | notice_size << NOTICE_SIZE_SHIFT;
}

/* What bound() of walk.py reads: 0 where it gives None. A number of 0 has nothing looked for. */
struct value {
    int64_t number, size;
    const unsigned char *at;
};

static int values(const unsigned char *data, int64_t end, int64_t pos, struct value *owner, struct value *name)
{
    if (end - pos < 2)
        return 0;
    int64_t formats = data[pos] << 8 | data[pos + 1], formats_at = pos + 2;
    pos = formats_at + 2 * formats;
    if (end - pos < 2)
        return 0;
    int64_t count = data[pos] << 8 | data[pos + 1];
    pos += 2;
    if ((formats > 1 && formats != count) || owner->number > count || name->number > count)
        return 0;
    for (int64_t place = 1; place <= count; place++) {
        if (end - pos < 4)
            return 0;
        int64_t size = length_at(data + pos - 1);
        pos += 4;
        if (size == 0xFFFFFFFF) {
            if (place == owner->number || place == name->number)
                return 0;
            size = 0;
        }
        if (size > 0x7FFFFFFF || size > end - pos)
            return 0;
        if (place == owner->number) {
            int64_t at = formats == 1 ? formats_at : formats_at + 2 * (place - 1);
            int binary = formats > 0 && data[at] == 0 && data[at + 1] == 1;
            if (size > MOST_OWNER || (size == BINARY_UUID && !binary))
                return 0;
            owner->at = data + pos;
            owner->size = size;
        }
        if (place == name->number) {
            if (size > MOST_SECRET)
                return 0;
            name->at = data + pos;
            name->size = size;
        }
        pos += size;
    }
    return 1;
}

static PyObject *bound(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 4 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "a Bind is bytes, a position and two numbers");
        return NULL;
    }
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(given[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(given[0]), start = PyLong_AsSsize_t(given[1]);
    struct value owner = {PyLong_AsSsize_t(given[2])}, name = {PyLong_AsSsize_t(given[3])};
    if (PyErr_Occurred())
        return NULL;
    if (size < 5 || start < 0 || 1 + length_at(data) > size || !values(data, 1 + length_at(data), start, &owner, &name))
        Py_RETURN_NONE;
    PyObject *raw = Py_NewRef(Py_None), *text = Py_NewRef(Py_None);
    if (owner.at != NULL)
        Py_SETREF(raw, PyBytes_FromStringAndSize((const char *)owner.at, owner.size));
    if (name.at != NULL)
        Py_SETREF(text, PyUnicode_DecodeUTF8((const char *)name.at, name.size, NULL));
    if (text == NULL && raw != NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        Py_DECREF(raw);
        Py_RETURN_NONE;
    }
    PyObject *made = raw == NULL || text == NULL ? NULL : PyTuple_Pack(2, raw, text);
    Py_XDECREF(raw);
    Py_XDECREF(text);
    return made;
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

static PyObject *walk_read(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "bytes are walked, and a number says for what");
        return NULL;
    }
    long asked = PyLong_AsLong(arguments[1]);
    if (asked == -1 && PyErr_Occurred())
        return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(arguments[0]);
    return PyLong_FromLongLong(answer(data, PyBytes_GET_SIZE(arguments[0]), asked));
}

static PyMethodDef methods[] = {
    {"walk_client", walk_client, METH_O, "Walks a chunk of the client's; see walk.py."},
    {"walk_backend", (PyCFunction)(void (*)(void))walk_backend, METH_FASTCALL, "Walks an answer; see walk.py."},
    {"walk_read", (PyCFunction)(void (*)(void))walk_read, METH_FASTCALL, "Walks a read's answer; see walk.py."},
    {"bound", (PyCFunction)(void (*)(void))bound, METH_FASTCALL, "Reads what a read is given; see walk.py."},
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
