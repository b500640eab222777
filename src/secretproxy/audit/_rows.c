/* Writes the line of a row whose fields are texts already, and a row in the log's own types, as Lines.add(),
   Line.plain() and Line.packed() of rows.py do, for a tenth of the instructions. Escapes and masks nothing, and keeps
   nothing. What line() gives None for, rows.py writes; packed() gives None where rows.py does. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
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

/* Says whether the arguments are a line and two hashes; if not, with an error. */
static int is_row(PyObject *const *given, Py_ssize_t count)
{
    for (int i = 0; i < 3; i++) {
        if (count != 3 || !PyBytes_Check(given[i]) || (i && PyBytes_GET_SIZE(given[i]) != HASH)) {
            PyErr_SetString(PyExc_TypeError, "a row is its line and two hashes");
            return 0;
        }
    }
    return 1;
}

static PyObject *plain(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!is_row(given, count))
        return NULL;
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

/* --- a row in the log's own types, as record_recv() of PostgreSQL reads it --- */

enum { BOOL = 16, BYTEA = 17, INT8 = 20, INT4 = 23, TEXT = 25, FLOAT8 = 701, INET = 869, TEXTS = 1009,
       TIMESTAMPTZ = 1184, UUID = 2950 };

/* The types of the columns, and which field of a line each is; the two hashes are no fields of it. */
#define FIELDS 27
#define COLUMNS 29
#define PREV_HASH (-1)
#define ROW_HASH (-2)
static const struct {
    int type, field;
} TABLE[COLUMNS] = {
    {UUID, 2}, {TIMESTAMPTZ, 3}, {TEXT, 4}, {UUID, 0}, {INT8, 1}, {BYTEA, PREV_HASH}, {BYTEA, ROW_HASH}, {UUID, 5},
    {INT8, 6}, {TEXT, 7}, {TEXT, 8}, {UUID, 9}, {TEXTS, 10}, {TEXT, 11}, {TEXTS, 12}, {TEXT, 13}, {TEXT, 14},
    {TEXT, 15}, {TEXT, 16}, {UUID, 17}, {TEXT, 18}, {TEXT, 19}, {INET, 20}, {INT4, 21}, {BOOL, 22}, {TEXT, 23},
    {TEXT, 24}, {FLOAT8, 25}, {INT8, 26},
};

static char *int32(char *to, uint32_t value)
{
    value = htonl(value);
    memcpy(to, &value, 4);
    return to + 4;
}

static char *int64(char *to, uint64_t value)
{
    return int32(int32(to, (uint32_t)(value >> 32)), (uint32_t)value);
}

static int is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* Each of these reads a field's text and writes the value; NULL: it is not of that type, or not as the log writes it. */

static char *packed_uuid(char *to, const char *at, const char *end)
{
    if (end - at != 36)
        return NULL;
    for (int i = 0; i < 36;) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (at[i++] != '-')
                return NULL;
            continue;
        }
        unsigned value = 0;
        for (int j = 0; j < 2; j++) {
            char byte = at[i++];
            if (is_digit(byte))
                value = value << 4 | (byte - '0');
            else if (byte >= 'a' && byte <= 'f')
                value = value << 4 | (byte - 'a' + 10);
            else
                return NULL;
        }
        *to++ = (char)value;
    }
    return to;
}

static char *packed_integer(char *to, const char *at, const char *end, int type)
{
    int negative = at < end && *at == '-';
    at += negative;
    /* Eighteen digits cannot overflow. */
    if (at == end || end - at > 18)
        return NULL;
    int64_t value = 0;
    for (; at < end; at++) {
        if (!is_digit(*at))
            return NULL;
        value = value * 10 + (*at - '0');
    }
    if (negative)
        value = -value;
    if (type == INT8)
        return int64(to, value);
    if (value < INT32_MIN || value > INT32_MAX)
        return NULL;
    return int32(to, value);
}

/* Reads so many digits; -1: there are none. */
static int digits(const char *at, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (!is_digit(at[i]))
            return -1;
        value = value * 10 + (at[i] - '0');
    }
    return value;
}

/* "YYYY-MM-DD HH:MM:SS", perhaps a fraction, "+00": microseconds since the year 2000. */
static char *packed_moment(char *to, const char *at, const char *end)
{
    static const int MONTHS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    Py_ssize_t size = end - at;
    if (size < 22 || size > 29 || size == 23 || at[4] != '-' || at[7] != '-' || at[10] != ' ' || at[13] != ':' ||
        at[16] != ':' || memcmp(end - 3, "+00", 3) != 0)
        return NULL;
    int year = digits(at, 4), month = digits(at + 5, 2), day = digits(at + 8, 2);
    int hour = digits(at + 11, 2), minute = digits(at + 14, 2), second = digits(at + 17, 2);
    if (year < 1 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 || minute > 59 ||
        second < 0 || second > 59)
        return NULL;
    int is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > MONTHS[month - 1] + (is_leap && month == 2))
        return NULL;
    int micros = 0;
    if (size > 22) {
        int given = (int)size - 23;
        micros = at[19] == '.' ? digits(at + 20, given) : -1;
        if (micros < 0)
            return NULL;
        for (; given < 6; given++)
            micros *= 10;
    }
    int before = year - 1;
    int64_t days = before * 365LL + before / 4 - before / 100 + before / 400 + day - 1;
    for (int i = 0; i < month - 1; i++)
        days += MONTHS[i] + (is_leap && i == 1);
    days -= 730119; /* of the years before 2000 */
    return int64(to, (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000000 + micros);
}

static char *packed_float(char *to, const char *at, const char *end)
{
    char text[32];
    Py_ssize_t size = end - at;
    if (size == 0 || size >= (Py_ssize_t)sizeof text)
        return NULL;
    const char *from = at + (*at == '-');
    int64_t read = 0, scale = 0;
    int count = 0, is_simple = 1;
    for (const char *byte = from; byte < end; byte++) {
        if (is_digit(*byte)) {
            read = read * 10 + (*byte - '0');
            scale *= 10;
            if (++count > 15)
                is_simple = 0, read = scale = 0;
        } else if (*byte == '.' && scale == 0 && byte > from && byte + 1 < end && is_digit(byte[1]))
            scale = 1;
        else if (*byte == 'e' || *byte == '+' || *byte == '-')
            is_simple = 0;
        else
            return NULL;
    }
    double value;
    if (is_simple && count)
        /* Both are exact, so that the quotient is the number nearest to the text. */
        value = scale ? (double)read / (double)scale : (double)read;
    else {
        memcpy(text, from, end - from);
        text[end - from] = '\0';
        char *stop;
        if (!is_digit(*text))
            return NULL;
        value = PyOS_string_to_double(text, &stop, NULL);
        if (PyErr_Occurred() || stop != text + (end - from)) {
            PyErr_Clear();
            return NULL;
        }
    }
    if (*at == '-')
        value = -value;
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return int64(to, bits);
}

/* Family, bits of the network, whether it is one, bytes of the address, and these: inet_recv(). */
static char *packed_address(char *to, const char *at, const char *end)
{
    char text[INET6_ADDRSTRLEN];
    if (end - at >= (Py_ssize_t)sizeof text)
        return NULL;
    memcpy(text, at, end - at);
    text[end - at] = '\0';
    int is_6 = strchr(text, ':') != NULL, size = is_6 ? 16 : 4;
    if (inet_pton(is_6 ? AF_INET6 : AF_INET, text, to + 4) != 1)
        return NULL;
    to[0] = is_6 ? 3 : 2;
    to[1] = (char)(size * 8);
    to[2] = 0;
    to[3] = (char)size;
    return to + 4 + size;
}

/* Undoes what COPY escapes; gives where the text ends. It grows no longer. */
static char *unescaped(char *to, const char *at, const char *end)
{
    static const char CODES[] = "bfnrtv", BYTES[] = "\b\f\n\r\t\v";
    while (at < end) {
        char byte = *at++;
        if (byte == '\\' && at < end) {
            byte = *at++;
            const char *code = byte ? strchr(CODES, byte) : NULL;
            if (code != NULL)
                byte = BYTES[code - CODES];
        }
        *to++ = byte;
    }
    return to;
}

static int is_null(const char *at, const char *end)
{
    return end - at == 4 && (at[0] | 32) == 'n' && (at[1] | 32) == 'u' && (at[2] | 32) == 'l' && (at[3] | 32) == 'l';
}

/* Dimensions, whether a NULL is among them, the type; their count and where it begins; each: array_recv(). */
static char *packed_texts(char *to, const char *at, const char *end)
{
    if (end - at < 2 || *at != '{' || end[-1] != '}')
        return NULL;
    at++, end--;
    char *head = to;
    uint32_t count = 0, has_null = 0;
    if (at == end)
        return int32(int32(int32(to, 0), 0), TEXT);
    to += 20;
    for (;; at++) {
        const char *from = at;
        count++;
        if (at < end && *at == '"') {
            char *size = to;
            to += 4;
            for (at++; at < end && *at != '"'; at++) {
                if (*at == '\\' && ++at == end)
                    return NULL;
                *to++ = *at;
            }
            if (at == end)
                return NULL;
            int32(size, to - size - 4);
            at++;
        } else {
            for (; at < end && *at != ','; at++)
                if (*at == '"' || *at == '\\' || *at == '{' || *at == '}' || *at == ' ' || (*at >= '\t' && *at <= '\r'))
                    return NULL;
            if (at == from)
                return NULL;
            if (is_null(from, at)) {
                has_null = 1;
                to = int32(to, (uint32_t)-1);
            } else {
                to = int32(to, at - from);
                memcpy(to, from, at - from);
                to += at - from;
            }
        }
        if (at == end)
            break;
        if (*at != ',')
            return NULL;
    }
    int32(int32(int32(int32(int32(head, 1), has_null), TEXT), count), 1);
    return to;
}

static char *packed_field(char *to, const char *at, const char *end, int type)
{
    switch (type) {
    case UUID:
        return packed_uuid(to, at, end);
    case INT4:
    case INT8:
        return packed_integer(to, at, end, type);
    case TIMESTAMPTZ:
        return packed_moment(to, at, end);
    case FLOAT8:
        return packed_float(to, at, end);
    case INET:
        return packed_address(to, at, end);
    case TEXTS:
        return packed_texts(to, at, end);
    case BOOL:
        if (end - at != 1 || (*at != 't' && *at != 'f'))
            return NULL;
        *to = *at == 't';
        return to + 1;
    default:
        memcpy(to, at, end - at);
        return to + (end - at);
    }
}

/* Longer than a screen: it owns two buffers, and each way out frees them. */
static PyObject *packed(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!is_row(given, count))
        return NULL;
    const char *at = PyBytes_AS_STRING(given[0]), *end = at + PyBytes_GET_SIZE(given[0]);
    if (memchr(at, '\0', end - at) != NULL)
        Py_RETURN_NONE;
    const char *from[FIELDS + 1];
    from[0] = at;
    int found = 1;
    for (const char *tab = at; (tab = memchr(tab, '\t', end - tab)) != NULL;) {
        if (found == FIELDS)
            Py_RETURN_NONE;
        from[found++] = ++tab;
    }
    if (found != FIELDS)
        Py_RETURN_NONE;
    from[FIELDS] = end + 1;
    /* An element of an array grows from two bytes to five, a number from one to eight. */
    char small[MOST], *plain = NULL;
    size_t most = 3 * (size_t)(end - at) + COLUMNS * 32 + 3 * HASH;
    char *made = most <= sizeof small ? small : PyMem_Malloc(most);
    if (made == NULL)
        return PyErr_NoMemory();
    char *to = int32(made + 4, COLUMNS);
    for (int i = 0; i < COLUMNS && to != NULL; i++) {
        int field = TABLE[i].field;
        to = int32(to, TABLE[i].type);
        if (field < 0) {
            to = int32(to, HASH);
            memcpy(to, PyBytes_AS_STRING(given[field == PREV_HASH ? 1 : 2]), HASH);
            to += HASH;
            continue;
        }
        const char *begin = from[field], *stop = from[field + 1] - 1;
        if (stop - begin == 2 && begin[0] == '\\' && begin[1] == 'N') {
            to = int32(to, (uint32_t)-1);
            continue;
        }
        char *size = to;
        if (memchr(begin, '\\', stop - begin) != NULL) {
            if (TABLE[i].type != TEXT && TABLE[i].type != TEXTS)
                to = NULL;
            else if (plain == NULL && (plain = PyMem_Malloc(end - at)) == NULL) {
                if (made != small)
                    PyMem_Free(made);
                return PyErr_NoMemory();
            } else {
                stop = unescaped(plain, begin, stop);
                begin = plain;
            }
        }
        if (to != NULL)
            to = packed_field(to + 4, begin, stop, TABLE[i].type);
        if (to != NULL)
            int32(size, to - size - 4);
    }
    PyObject *row = Py_None;
    if (to != NULL) {
        int32(made, to - made - 4);
        row = PyBytes_FromStringAndSize(made, to - made);
    } else
        Py_INCREF(row);
    if (made != small)
        PyMem_Free(made);
    PyMem_Free(plain);
    return row;
}

static PyMethodDef methods[] = {
    {"line", (PyCFunction)(void (*)(void))line, METH_FASTCALL, "Writes a line; see rows.py."},
    {"plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL, "Writes a row; see rows.py."},
    {"packed", (PyCFunction)(void (*)(void))packed, METH_FASTCALL, "Writes a row in binary form; see rows.py."},
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
