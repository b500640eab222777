/* Writes a row: its line, its hash and the row in the log's own types, as Lines.add(), chain.link(), Line.plain() and
   Line.packed() of rows.py do, for a tenth of the instructions. Escapes and masks nothing, and keeps nothing. What
   linked() gives None for, rows.py writes; packed() gives None where rows.py does.

   linked() does not read the line that it has written. Each field that a row has of its own is written twice, as a text
   and in binary form, from one integer, or from a name that needs no quotes. All others come in parts: the text of
   fields that stand side by side, and what packed() makes of that text, which fields() has found once for the rows that
   have it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#include "../wire/_digest.h"

#define MOST 4096   /* bytes of a line, and of a part's text */
#define ROOM 512    /* of a line or a row in binary form for what is in no part */
#define HASH SHA256_SIZE

/* Both digits of each byte. */
static char HEX[256][2];

static char *hexed(char *to, const unsigned char *from, int size)
{
    for (int i = 0; i < size; i++, to += 2)
        memcpy(to, HEX[from[i]], 2);
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

static char *uuid_text(char *to, const unsigned char *value)
{
    hexed(to, value, 4);
    hexed(to + 9, value + 4, 2);
    hexed(to + 14, value + 6, 2);
    hexed(to + 19, value + 8, 2);
    to[8] = to[13] = to[18] = to[23] = '-';
    return hexed(to + 24, value + 10, 6);
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

/* A column behind its type and length. NULL: as above. `plain` has room for the text. */
static char *packed_column(char *to, const char *begin, const char *stop, int type, char *plain)
{
    to = int32(to, type);
    if (stop - begin == 2 && begin[0] == '\\' && begin[1] == 'N')
        return int32(to, (uint32_t)-1);
    if (memchr(begin, '\\', stop - begin) != NULL) {
        if (type != TEXT && type != TEXTS)
            return NULL;
        stop = unescaped(plain, begin, stop);
        begin = plain;
    }
    char *end = packed_field(to + 4, begin, stop, type);
    if (end != NULL)
        int32(to, end - to - 4);
    return end;
}

static char *hash_column(char *to, const void *hash)
{
    memcpy(int32(int32(to, BYTEA), HASH), hash, HASH);
    return to + 8 + HASH;
}

/* What a text of so many bytes and fields takes at most in binary form: an element of an array grows from two bytes to
   five, a number from one to eight. */
#define PACKED_MOST(size, fields) (3 * (size_t)(size) + (fields) * 32)

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
    char small[2 * MOST];
    size_t most = PACKED_MOST(end - at, COLUMNS) + 3 * HASH, all = most + (end - at);
    char *made = all <= sizeof small ? small : PyMem_Malloc(all);
    if (made == NULL)
        return PyErr_NoMemory();
    char *to = int32(made + 4, COLUMNS);
    for (int i = 0; i < COLUMNS && to != NULL; i++) {
        int field = TABLE[i].field;
        if (field < 0)
            to = hash_column(to, PyBytes_AS_STRING(given[field == PREV_HASH ? 1 : 2]));
        else
            to = packed_column(to, from[field], from[field + 1] - 1, TABLE[i].type, made + most);
    }
    PyObject *row = Py_None;
    if (to != NULL) {
        int32(made, to - made - 4);
        row = PyBytes_FromStringAndSize(made, to - made);
    } else
        Py_INCREF(row);
    if (made != small)
        PyMem_Free(made);
    return row;
}

/* --- the line, the hash and the row at once --- */

/* Fields of a line. */
enum { INSTANCE_FIELD = 0, EVENT_FIELD = 4, SESSION_FIELD = 5 };

/* The column of a field whose columns stand in the order of the fields: those from the session on, and of the others
   only single ones come in a part. */
static int column_of(long field)
{
    if (field >= SESSION_FIELD && field < FIELDS)
        return field + 2;
    return field == EVENT_FIELD ? 2 : field == INSTANCE_FIELD ? 3 : -1;
}

/* A part: the size of its text in the machine's own order, the text, and the same fields in binary form. None where one
   of them is not as the log writes it, or the text is too long. */
static PyObject *fields(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(given[0]) || !PyLong_Check(given[1])) {
        PyErr_SetString(PyExc_TypeError, "a part is a text and the number of its first field");
        return NULL;
    }
    long field = PyLong_AsLong(given[1]);
    if (field == -1 && PyErr_Occurred())
        return NULL;
    const char *at = PyBytes_AS_STRING(given[0]), *end = at + PyBytes_GET_SIZE(given[0]);
    uint32_t size = end - at;
    if (end - at > MOST || memchr(at, '\0', end - at) != NULL)
        Py_RETURN_NONE;
    char plain[MOST], made[sizeof size + MOST + PACKED_MOST(MOST, FIELDS)], *to = made + sizeof size + size;
    memcpy(made, &size, sizeof size);
    memcpy(made + sizeof size, at, size);
    for (;; field++) {
        int column = column_of(field);
        const char *stop = memchr(at, '\t', end - at);
        if (column < 0 || (stop != NULL && field < SESSION_FIELD))
            Py_RETURN_NONE;
        to = packed_column(to, at, stop == NULL ? end : stop, TABLE[column].type, plain);
        if (to == NULL)
            Py_RETURN_NONE;
        if (stop == NULL)
            return PyBytes_FromStringAndSize(made, to - made);
        at = stop + 1;
    }
}

/* A row in the making: where its line and its binary form go on, and where a part must end. */
struct row {
    char *text, *packed;
    const char *text_end, *packed_end;
};

/* What linked() is given. POOL and DRAWN: sixteen random bytes, and where they stand in what holds them. OF_PATTERN and
   KNOWN are tuples of parts. */
enum {
    BEFORE, INSTANCE, SEQ, POOL, DRAWN, AT, OF_PATTERN, KNOWN, STATEMENT_NO, OWNER, NAMES, ACCESSED_BY, DURATION, CALLS,
    COUNT
};
/* The parts of a statement's rows, and those of a session's. */
enum { EVENT, CALLED, HOW, ROLE, OUTCOME, OF_PATTERN_COUNT };
enum { SESSION, USER, CLIENT, KNOWN_COUNT };

/* Numbers from this on have more digits than packed() reads. */
#define MOST_NUMBER 1000000000000000000LL

/* Each of these says whether the field was of the commonest form, and is in the row then. With an error set, it was
   not. */

static int read_number(PyObject *given, long long *value)
{
    int overflow;
    if (!PyLong_Check(given))
        return 0;
    *value = PyLong_AsLongLongAndOverflow(given, &overflow);
    return !overflow && *value >= 0 && *value < MOST_NUMBER;
}

/* Reads a part; gives where its text begins, and where that and all of it end. */
static const char *read_part(PyObject *given, const char **text_end, const char **end)
{
    uint32_t size;
    if (!PyBytes_Check(given) || PyBytes_GET_SIZE(given) < (Py_ssize_t)sizeof size)
        return NULL;
    const char *text = PyBytes_AS_STRING(given) + sizeof size;
    memcpy(&size, text - sizeof size, sizeof size);
    *end = PyBytes_AS_STRING(given) + PyBytes_GET_SIZE(given);
    if (size > *end - text)
        return NULL;
    *text_end = text + size;
    return text;
}

static int add_part(struct row *row, PyObject *given)
{
    const char *text_end, *end, *text = read_part(given, &text_end, &end);
    if (text == NULL || text_end - text > row->text_end - row->text || end - text_end > row->packed_end - row->packed)
        return 0;
    *row->text++ = '\t';
    memcpy(row->text, text, text_end - text);
    row->text += text_end - text;
    memcpy(row->packed, text_end, end - text_end);
    row->packed += end - text_end;
    return 1;
}

static void add_null(struct row *row, int type)
{
    *row->text++ = '\t';
    row->text = null(row->text);
    row->packed = int32(int32(row->packed, type), (uint32_t)-1);
}

/* Adds secrets' names: NULL, a part, or one name as a str, which stands in an array as it is. */
static int add_names(struct row *row, PyObject *given)
{
    if (given == Py_None) {
        add_null(row, TEXTS);
        return 1;
    }
    if (!PyUnicode_Check(given))
        return add_part(row, given);
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(given, &size);
    if (name == NULL || size > row->text_end - row->text || size > row->packed_end - row->packed ||
        memchr(name, '\0', size) != NULL)
        return 0;
    memcpy(row->text, "\t{", 2);
    memcpy(row->text + 2, name, size);
    row->text += size + 2;
    *row->text++ = '}';
    /* As packed_texts() writes it. */
    char *to = int32(int32(int32(int32(row->packed, TEXTS), 24 + size), 1), 0);
    to = int32(int32(int32(int32(to, TEXT), 1), 1), size);
    memcpy(to, name, size);
    row->packed = to + size;
    return 1;
}

static int add_number(struct row *row, PyObject *given)
{
    long long value;
    if (given == Py_None) {
        add_null(row, INT8);
        return 1;
    }
    if (!read_number(given, &value))
        return 0;
    *row->text++ = '\t';
    row->text = number(row->text, value);
    row->packed = int64(int32(int32(row->packed, INT8), 8), value);
    return 1;
}

static PyObject *int_of_uuid;

/* The number of a uuid.UUID is what its text is made of. */
static int add_uuid(struct row *row, PyObject *given)
{
    if (given == Py_None) {
        add_null(row, UUID);
        return 1;
    }
    PyObject *value = PyObject_GetAttr(given, int_of_uuid);
    if (value == NULL) {
        PyErr_Clear();
        return 0;
    }
    unsigned char bytes[17];
    /* One more than it may have: the first one is 0 then. */
#if PY_VERSION_HEX >= 0x030d0000
    int done = PyLong_Check(value) && PyLong_AsNativeBytes(value, bytes, sizeof bytes, 0) <= (Py_ssize_t)sizeof bytes;
#else
    int done = PyLong_Check(value) && _PyLong_AsByteArray((PyLongObject *)value, bytes, sizeof bytes, 0, 1) == 0;
#endif
    Py_DECREF(value);
    PyErr_Clear();
    if (!done || bytes[0] != 0)
        return 0;
    *row->text++ = '\t';
    row->text = uuid_text(row->text, bytes + 1);
    row->packed = int32(int32(row->packed, UUID), 16);
    memcpy(row->packed, bytes + 1, 16);
    row->packed += 16;
    return 1;
}

/* Seconds, to the microsecond: from 100 of these to a second. Others PostgreSQL writes with an exponent, or they have
   no fraction. */
static int add_duration(struct row *row, PyObject *given)
{
    if (given == Py_None) {
        add_null(row, FLOAT8);
        return 1;
    }
    if (!PyFloat_Check(given))
        return 0;
    /* Rounded before a half is added, as Python does. */
    volatile double product = PyFloat_AS_DOUBLE(given) * 1e6;
    double rounded = product + 0.5;
    if (!(rounded >= 100 && rounded < 1000000))
        return 0;
    long long micros = (long long)rounded;
    *row->text++ = '\t';
    *row->text++ = '0';
    row->text = fraction(row->text, micros);
    /* Both are exact, so that the quotient is the number nearest to the text. */
    double value = (double)micros / 1e6;
    uint64_t bits;
    memcpy(&bits, &value, 8);
    row->packed = int64(int32(int32(row->packed, FLOAT8), 8), bits);
    return 1;
}

static char *two(char *to, int value)
{
    *to++ = '0' + value / 10;
    *to++ = '0' + value % 10;
    return to;
}

/* Writes microseconds since 1970, before the year 10000, as a moment in UTC. */
static char *moment(char *to, long long at)
{
    int64_t seconds = at / 1000000;
    int day = seconds / 86400, second = seconds % 86400;
    /* Years that begin in March, in eras of 400, from March of the year 0 on, which is 719,468 days before 1970. */
    day += 719468;
    int era = day / 146097, of_era = day % 146097;
    int year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int of_year = of_era - (365 * year + year / 4 - year / 100);
    int month = (5 * of_year + 2) / 153;
    day = of_year - (153 * month + 2) / 5 + 1;
    month += month < 10 ? 3 : -9;
    year += era * 400 + (month <= 2);
    to = two(two(to, year / 100), year % 100);
    *to++ = '-';
    to = two(to, month);
    *to++ = '-';
    to = two(to, day);
    *to++ = ' ';
    to = two(to, second / 3600);
    *to++ = ':';
    to = two(to, second / 60 % 60);
    *to++ = ':';
    to = two(to, second % 60);
    to = fraction(to, at % 1000000);
    memcpy(to, "+00", 3);
    return to + 3;
}

#define YEAR_2000 946684800000000LL    /* in microseconds since 1970 */
#define YEAR_10000 253402300800000000LL

/* Adds the fields up to the event, whose columns stand in another order. Gives where the two hashes go; NULL: some field
   was of another form. */
static char *begin(struct row *row, PyObject *const *given)
{
    const char *text_end, *end, *text = read_part(given[INSTANCE], &text_end, &end);
    long long seq, at, drawn;
    if (text == NULL || text_end - text != 36 || end - text_end != 24 || !read_number(given[SEQ], &seq) ||
        !read_number(given[AT], &at) || at >= YEAR_10000 || !read_number(given[DRAWN], &drawn) ||
        !PyBytes_Check(given[POOL]) || drawn > PyBytes_GET_SIZE(given[POOL]) - 16)
        return NULL;
    memcpy(row->text, text, 36);
    row->text[36] = '\t';
    row->text = number(row->text + 37, seq);
    /* A random UUID (version 4). */
    unsigned char id[16];
    memcpy(id, PyBytes_AS_STRING(given[POOL]) + drawn, sizeof id);
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    *row->text++ = '\t';
    row->text = uuid_text(row->text, id);
    *row->text++ = '\t';
    row->text = moment(row->text, at);
    row->packed = int32(int32(row->packed, UUID), 16);
    memcpy(row->packed, id, 16);
    row->packed = int64(int32(int32(row->packed + 16, TIMESTAMPTZ), 8), at - YEAR_2000);
    if (!add_part(row, PyTuple_GET_ITEM(given[OF_PATTERN], EVENT)))
        return NULL;
    memcpy(row->packed, text_end, 24);
    char *hashes = int64(int32(int32(row->packed + 24, INT8), 8), seq);
    row->packed = hashes + 2 * (8 + HASH);
    return hashes;
}

static sha256_function sha256;

static PyObject *linked(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (count != COUNT || !PyTuple_Check(given[OF_PATTERN]) || !PyTuple_Check(given[KNOWN]) ||
        PyTuple_GET_SIZE(given[OF_PATTERN]) != OF_PATTERN_COUNT || PyTuple_GET_SIZE(given[KNOWN]) != KNOWN_COUNT ||
        !PyBytes_Check(given[BEFORE]) || PyBytes_GET_SIZE(given[BEFORE]) != HASH) {
        PyErr_SetString(PyExc_TypeError, "a row has other fields");
        return NULL;
    }
    if (sha256 == NULL)
        Py_RETURN_NONE;
    /* The hash is of the one before and the line: they stand side by side. */
    char hashed[HASH + MOST], made[3 * MOST], *line = hashed + HASH;
    memcpy(hashed, PyBytes_AS_STRING(given[BEFORE]), HASH);
    struct row row = {line, made + 8, hashed + sizeof hashed - ROOM, made + sizeof made - ROOM};
    PyObject **of_pattern = &PyTuple_GET_ITEM(given[OF_PATTERN], 0), **known = &PyTuple_GET_ITEM(given[KNOWN], 0);
    char *hashes = begin(&row, given);
    int done = hashes != NULL && add_part(&row, known[SESSION]) && add_number(&row, given[STATEMENT_NO]) &&
               add_part(&row, of_pattern[CALLED]) && add_uuid(&row, given[OWNER]) && add_names(&row, given[NAMES]) &&
               add_part(&row, of_pattern[HOW]) && add_part(&row, known[USER]) && add_part(&row, of_pattern[ROLE]) &&
               add_uuid(&row, given[ACCESSED_BY]) && add_part(&row, known[CLIENT]) &&
               add_part(&row, of_pattern[OUTCOME]) && add_duration(&row, given[DURATION]) &&
               add_number(&row, given[CALLS]);
    if (!done) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    unsigned char hash[HASH];
    if (sha256(hash, hashed, row.text - hashed, NULL, 0) < 0)
        return NULL;
    hash_column(hash_column(hashes, hashed), hash);
    int32(int32(made, row.packed - made - 4), COLUMNS);
    PyObject *all = PyTuple_New(3);
    if (all == NULL)
        return NULL;
    PyTuple_SET_ITEM(all, 0, PyBytes_FromStringAndSize(line, row.text - line));
    PyTuple_SET_ITEM(all, 1, PyBytes_FromStringAndSize((const char *)hash, HASH));
    PyTuple_SET_ITEM(all, 2, PyBytes_FromStringAndSize(made, row.packed - made));
    for (int i = 0; i < 3; i++)
        if (PyTuple_GET_ITEM(all, i) == NULL) {
            Py_DECREF(all);
            return NULL;
        }
    return all;
}

static PyMethodDef methods[] = {
    {"linked", (PyCFunction)(void (*)(void))linked, METH_FASTCALL, "Writes a line and its row, and links it; see rows.py."},
    {"fields", (PyCFunction)(void (*)(void))fields, METH_FASTCALL, "Writes a part of linked(); see rows.py."},
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
    for (int i = 0; i < 256; i++) {
        HEX[i][0] = "0123456789abcdef"[i >> 4];
        HEX[i][1] = "0123456789abcdef"[i & 15];
    }
    int_of_uuid = PyUnicode_InternFromString("int");
    if (int_of_uuid == NULL)
        return NULL;
    /* Without OpenSSL there is no such module. */
    PyObject *digest = PyImport_ImportModule(SHA256_MODULE);
    PyObject *capsule = digest == NULL ? NULL : PyObject_GetAttrString(digest, SHA256_NAME);
    void *found = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, SHA256_CAPSULE);
    sha256 = (sha256_function)(uintptr_t)found;
    PyErr_Clear();
    Py_XDECREF(capsule);
    Py_XDECREF(digest);
    return PyModule_Create(&module);
}
