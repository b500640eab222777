/* Cuts literals and comments out of a text, as split() and without_comments() of literals.py do, some hundred times as fast. Reads bytes
   and gives bytes; what it gives None for has no template. */

#define _GNU_SOURCE /* strcasestr(), memmem() */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MOST 131072 /* bytes of a text; literals.py knows the same number */
#define MOST_DIGITS 9
#define STRING 1 /* what stands for a literal in a template */
#define NUMBER 2
#define MORE_NUMBERS 3
#define MORE_STRINGS 4

/* What a byte may be: see the sets of the same names in literals.py. */
enum { BLANK = 1, WORD = 2, DIGIT = 4, REFUSED = 8, BEFORE_STRING = 16, AFTER_STRING = 32, BEFORE_NUMBER = 64, AFTER_NUMBER = 128 };
static unsigned char KIND[256];
static unsigned char BEFORE_NAME[256];
/* What begins a comment, or hides one. */
static unsigned char SPECIAL[256];

static void mark(unsigned char kind, const char *bytes)
{
    for (; *bytes; bytes++)
        KIND[(unsigned char)*bytes] |= kind;
}

/* Where each string begins and ends. */
typedef struct {
    uint32_t few[128], *found;
    size_t count, room;
} Spans;

/* 0 where there is no memory. */
static int keep(Spans *spans, Py_ssize_t begin, Py_ssize_t end)
{
    if (spans->count + 2 > spans->room) {
        uint32_t *more = PyMem_Realloc(spans->found == spans->few ? NULL : spans->found, 2 * spans->room * sizeof *more);
        if (more == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        if (spans->found == spans->few)
            memcpy(more, spans->few, sizeof spans->few);
        spans->found = more;
        spans->room *= 2;
    }
    spans->found[spans->count++] = (uint32_t)begin;
    spans->found[spans->count++] = (uint32_t)end;
    return 1;
}

/* The mark that ends a string whose content begins at `at`, NULL where it has none or a byte that makes it unusual. */
static const unsigned char *string_end(const unsigned char *at, const unsigned char *end)
{
    const unsigned char *begin = at;
    for (;;) {
        at = memchr(at, '\'', end - at);
        if (at == NULL || at + 1 == end || at[1] != '\'')
            break;
        at += 2;
    }
    if (at != NULL && (memchr(begin, '\\', at - begin) != NULL || memchr(begin, 0, at - begin) != NULL))
        return NULL;
    return at;
}

static const unsigned char *blanks(const unsigned char *at, const unsigned char *end)
{
    while (at < end && KIND[*at] & BLANK)
        at++;
    return at;
}

/* The bracket that ends a list of numbers alone or strings alone which begins at `at`, NULL where it is none. `first`: where the first
   string begins and ends; NULL for numbers. */
static const unsigned char *list_end(const unsigned char *at, const unsigned char *end, const unsigned char *first[2])
{
    first[0] = first[1] = NULL;
    for (int number = 0;; number++) {
        at = blanks(at, end);
        if (at == end)
            return NULL;
        if (KIND[*at] & DIGIT && first[0] == NULL) {
            const unsigned char *begin = at;
            while (at < end && KIND[*at] & DIGIT)
                at++;
            if (at - begin > MOST_DIGITS)
                return NULL;
        } else if (*at == '\'' && (number == 0 || first[0] != NULL)) {
            const unsigned char *begin = at + 1;
            at = string_end(begin, end);
            if (at == NULL)
                return NULL;
            if (number == 0) {
                first[0] = begin;
                first[1] = at;
            }
            at++;
        } else {
            return NULL;
        }
        at = blanks(at, end);
        if (at == end || (*at != ',' && *at != ')'))
            return NULL;
        if (*at++ == ')')
            return at - 1;
    }
}

/* Whether the word from `begin` is the IN of a list. */
static int is_in(const unsigned char *text, const unsigned char *begin, const unsigned char *behind)
{
    return behind - begin == 2 && (begin[0] | 32) == 'i' && (begin[1] | 32) == 'n' && begin - text >= 2 && KIND[begin[-1]] & BLANK &&
           !(KIND[begin[-2]] & BLANK) && begin[-2] != '.';
}

static PyObject *split(PyObject *module, PyObject *given)
{
    if (!PyBytes_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a text is bytes");
        return NULL;
    }
    const unsigned char *text = (const unsigned char *)PyBytes_AS_STRING(given), *end = text + PyBytes_GET_SIZE(given), *at = text;
    if (end - text > MOST)
        Py_RETURN_NONE;
    /* A list of one number takes a byte more than in the text, where it takes six and more. */
    PyObject *template = PyBytes_FromStringAndSize(NULL, (end - text) + (end - text) / 6 + 1), *spans = NULL, *made = NULL;
    Spans spans_of = {.found = spans_of.few, .room = sizeof spans_of.few / sizeof *spans_of.few};
    int lists = -1; /* whether lists are looked for; -1: nobody has asked yet */
    int refused = 0, failed = template == NULL;
    if (failed)
        goto done;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(template);
    unsigned char last = 0; /* the last byte before `at` that is no blank */

    while (at < end && !refused) {
        unsigned char c = *at, before = at > text ? at[-1] : 0;
        if (KIND[c] & DIGIT) {
            const unsigned char *begin = at;
            while (at < end && KIND[*at] & DIGIT)
                at++;
            last = at[-1];
            if (at - begin <= MOST_DIGITS && KIND[before] & BEFORE_NUMBER && (at == end || KIND[*at] & AFTER_NUMBER)) {
                *to++ = NUMBER;
            } else {
                memcpy(to, begin, at - begin);
                to += at - begin;
            }
        } else if (KIND[c] & WORD) {
            const unsigned char *begin = at, *first[2];
            do
                *to++ = *at++;
            while (at < end && KIND[*at] & (WORD | DIGIT));
            last = at[-1];
            if (!is_in(text, begin, at))
                continue;
            if (lists < 0)
                lists = strcasestr((const char *)text, "position") == NULL;
            if (!lists)
                continue;
            const unsigned char *open = blanks(at, end), *close = open < end && *open == '(' ? list_end(open + 1, end, first) : NULL;
            if (close == NULL)
                continue;
            while (at <= open)
                *to++ = *at++;
            failed = first[0] != NULL && !keep(&spans_of, first[0] - text, first[1] - text);
            if (failed)
                goto done;
            *to++ = first[0] != NULL ? STRING : NUMBER;
            *to++ = first[0] != NULL ? MORE_STRINGS : MORE_NUMBERS;
            last = '(';
            at = close;
        } else if (c == '\'') {
            const unsigned char *begin = ++at;
            at = KIND[before] & BEFORE_STRING && last != '\'' ? string_end(begin, end) : NULL;
            refused = at == NULL || (at + 1 < end && !(KIND[at[1]] & AFTER_STRING));
            if (refused)
                break;
            failed = !keep(&spans_of, begin - text, at - text);
            if (failed)
                goto done;
            *to++ = STRING;
            last = '\'';
            at++;
        } else if (c == '"') {
            refused = !BEFORE_NAME[before];
            *to++ = *at++;
            while (!refused) {
                refused = at == end || (KIND[*at] & (REFUSED | BLANK) && *at != ' ');
                if (refused)
                    break;
                *to++ = *at;
                if (*at++ == '"') {
                    if (at == end || *at != '"')
                        break;
                    *to++ = *at++;
                }
            }
            last = '"';
        } else if (KIND[c] & BLANK) {
            *to++ = *at++;
        } else if (KIND[c] & REFUSED) {
            refused = c != '$';
            if (refused)
                break;
            refused = KIND[before] & (WORD | DIGIT) || before == '\'' || before == '"' || at + 1 == end || !(KIND[at[1]] & DIGIT);
            do
                *to++ = *at++;
            while (at < end && KIND[*at] & DIGIT);
            refused |= at < end && KIND[*at] & WORD;
            last = '$';
        } else {
            refused = at + 1 < end && ((c == '-' && at[1] == '-') || (c == '/' && at[1] == '*'));
            last = c;
            *to++ = *at++;
        }
    }
    if (!refused) {
        spans = PyBytes_FromStringAndSize((const char *)spans_of.found, spans_of.count * sizeof *spans_of.found);
        failed = spans == NULL || _PyBytes_Resize(&template, to - (unsigned char *)PyBytes_AS_STRING(template)) < 0;
        if (!failed) {
            made = PyTuple_Pack(2, template, spans);
            failed = made == NULL;
        }
    }
done:
    if (spans_of.found != spans_of.few)
        PyMem_Free(spans_of.found);
    Py_XDECREF(template);
    Py_XDECREF(spans);
    if (failed)
        return NULL;
    if (made == NULL)
        Py_RETURN_NONE;
    return made;
}

/* What is behind the comment that begins at `at`, NULL where it has no end. */
static const unsigned char *comment_end(const unsigned char *at, const unsigned char *end)
{
    if (*at == '-') {
        while (at < end && *at != '\n' && *at != '\r')
            at++;
        return at;
    }
    Py_ssize_t depth = 1;
    for (at += 2; depth > 0; at += 2) {
        while (at + 1 < end && !(at[0] == '/' && at[1] == '*') && !(at[0] == '*' && at[1] == '/'))
            at++;
        if (at + 1 >= end)
            return NULL;
        depth += *at == '/' ? 1 : -1;
    }
    return at;
}

/* What is behind the parameter or the string in dollars that begins at `at`, NULL where none is sure to begin there. */
static const unsigned char *dollar_end(const unsigned char *text, const unsigned char *at, const unsigned char *end)
{
    const unsigned char *tag = at++;
    if (tag > text && (KIND[tag[-1]] & (WORD | DIGIT) || tag[-1] >= 128 || strchr("$'\"", tag[-1]) != NULL))
        return NULL;
    if (at < end && KIND[*at] & DIGIT)
        return at + 1;
    while (at < end && KIND[*at] & (WORD | DIGIT))
        at++;
    if (at == end || *at != '$')
        return NULL;
    at++;
    const unsigned char *closing = memmem(at, end - at, tag, at - tag);
    return closing == NULL ? NULL : closing + (at - tag);
}

static PyObject *without_comments(PyObject *module, PyObject *given)
{
    if (!PyBytes_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a text is bytes");
        return NULL;
    }
    const unsigned char *text = (const unsigned char *)PyBytes_AS_STRING(given), *at = text;
    size_t size = PyBytes_GET_SIZE(given);
    if (memmem(text, size, "/*", 2) == NULL && memmem(text, size, "--", 2) == NULL)
        Py_RETURN_NONE;
    if (memchr(text, '\\', size) != NULL || memchr(text, 0, size) != NULL)
        Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL)
        return NULL;
    unsigned char *begin = (unsigned char *)PyBytes_AS_STRING(made), *to = begin;
    const unsigned char *end = text + size, *behind;
    /* Whether a string is the last token, whether a comment stands behind it, whether any does. */
    int string = 0, commented_behind = 0, commented = 0;
    while (at < end) {
        behind = at;
        while (behind < end && !SPECIAL[*behind])
            behind++;
        memcpy(to, at, behind - at);
        to += behind - at;
        for (; string && at < behind; at++)
            if (!(KIND[*at] & BLANK) && *at != '\f' && *at != '\v')
                string = commented_behind = 0;
        at = behind;
        if (at == end)
            break;
        unsigned char c = *at, next = at + 1 < end ? at[1] : 0;
        if ((c == '-' && next == '-') || (c == '/' && next == '*')) {
            at = comment_end(at, end);
            if (at == NULL)
                goto refused;
            if (to > begin && !(KIND[to[-1]] & BLANK))
                *to++ = ' ';
            commented = 1;
            commented_behind = string;
            continue;
        }
        behind = at + 1;
        if (c == '\'' || c == '"') {
            if (c == '\'' && commented_behind)
                goto refused;
            behind = memchr(behind, c, end - behind);
            if (behind == NULL)
                goto refused;
            behind++;
            string = c == '\'';
            commented_behind = 0;
        } else if (c == '$') {
            behind = dollar_end(text, at, end);
            if (behind == NULL)
                goto refused;
            string = commented_behind = 0;
        } else {
            string = commented_behind = 0;
        }
        memcpy(to, at, behind - at);
        to += behind - at;
        at = behind;
    }
    if (!commented)
        goto refused;
    while (to > begin && KIND[to[-1]] & BLANK)
        to--;
    while (begin < to && KIND[*begin] & BLANK)
        begin++;
    PyObject *bare = PyBytes_FromStringAndSize((const char *)begin, to - begin);
    Py_DECREF(made);
    return bare;
refused:
    Py_DECREF(made);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"split", split, METH_O, "Cuts the literals out of a text; see literals.py."},
    {"without_comments", without_comments, METH_O, "Cuts the comments out of a text; see literals.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_literals",
    .m_doc = "Cuts comments and literals out of a text; see literals.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__literals(void)
{
    memset(KIND, 0, sizeof KIND);
    memset(BEFORE_NAME, 0, sizeof BEFORE_NAME);
    memset(SPECIAL, 0, sizeof SPECIAL);
    for (int c = 0; c < 256; c++) {
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_')
            KIND[c] |= WORD;
        if (c >= '0' && c <= '9')
            KIND[c] |= DIGIT;
        if ((c < 32 && c != '\t' && c != '\n' && c != '\r') || c >= 127 || c == '\\' || c == '$')
            KIND[c] |= REFUSED;
    }
    mark(BLANK, " \t\n\r");
    mark(BEFORE_STRING, " \t\n\r(,=<>|[");
    mark(AFTER_STRING, " \t\n\r),:;]=<>|");
    mark(BEFORE_NUMBER, " \t\n\r(,=<>[");
    mark(AFTER_NUMBER, " \t\n\r),:;]=<>|+-*/%");
    for (const char *byte = " \t\n\r(,.=<>["; *byte; byte++)
        BEFORE_NAME[(unsigned char)*byte] = 1;
    for (const char *byte = "-/'\"$"; *byte; byte++)
        SPECIAL[(unsigned char)*byte] = 1;
    return PyModule_Create(&module);
}
