/* Cuts the literals out of a text, as split() of literals.py does, some hundred times as fast. Reads bytes and gives bytes; what it
   gives None for has no template. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MOST 131072 /* bytes of a text; literals.py knows the same number */
#define MOST_DIGITS 9
#define STRING 1 /* what stands for a literal in a template */
#define NUMBER 2

/* What a byte may be: see the sets of the same names in literals.py. */
enum { BLANK = 1, WORD = 2, DIGIT = 4, REFUSED = 8, BEFORE_STRING = 16, AFTER_STRING = 32, BEFORE_NUMBER = 64, AFTER_NUMBER = 128 };
static unsigned char KIND[256];
static unsigned char BEFORE_NAME[256];

static void mark(unsigned char kind, const char *bytes)
{
    for (; *bytes; bytes++)
        KIND[(unsigned char)*bytes] |= kind;
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
    PyObject *template = PyBytes_FromStringAndSize(NULL, end - text), *spans = NULL, *made = NULL;
    /* Where each string begins and ends. */
    uint32_t few[128], *found = few;
    size_t count = 0, room = sizeof few / sizeof *few;
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
            do
                *to++ = *at++;
            while (at < end && KIND[*at] & (WORD | DIGIT));
            last = at[-1];
        } else if (c == '\'') {
            const unsigned char *begin = ++at;
            if (!(KIND[before] & BEFORE_STRING) || last == '\'') {
                refused = 1;
                break;
            }
            for (;;) {
                at = memchr(at, '\'', end - at);
                if (at == NULL || at + 1 == end || at[1] != '\'')
                    break;
                at += 2;
            }
            refused = at == NULL || memchr(begin, '\\', at - begin) != NULL || memchr(begin, 0, at - begin) != NULL ||
                      (at + 1 < end && !(KIND[at[1]] & AFTER_STRING));
            if (refused)
                break;
            if (count + 2 > room) {
                uint32_t *more = PyMem_Realloc(found == few ? NULL : found, 2 * room * sizeof *found);
                failed = more == NULL;
                if (failed) {
                    PyErr_NoMemory();
                    goto done;
                }
                if (found == few)
                    memcpy(more, few, sizeof few);
                found = more;
                room *= 2;
            }
            found[count++] = (uint32_t)(begin - text);
            found[count++] = (uint32_t)(at - text);
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
        } else {
            refused = KIND[c] & REFUSED || (at + 1 < end && ((c == '-' && at[1] == '-') || (c == '/' && at[1] == '*')));
            if (!(KIND[c] & BLANK))
                last = c;
            *to++ = *at++;
        }
    }
    if (!refused) {
        spans = PyBytes_FromStringAndSize((const char *)found, count * sizeof *found);
        failed = spans == NULL || _PyBytes_Resize(&template, to - (unsigned char *)PyBytes_AS_STRING(template)) < 0;
        if (!failed) {
            made = PyTuple_Pack(2, template, spans);
            failed = made == NULL;
        }
    }
done:
    if (found != few)
        PyMem_Free(found);
    Py_XDECREF(template);
    Py_XDECREF(spans);
    if (failed)
        return NULL;
    if (made == NULL)
        Py_RETURN_NONE;
    return made;
}

static PyMethodDef methods[] = {
    {"split", split, METH_O, "Cuts the literals out of a text; see literals.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_literals",
    .m_doc = "Cuts the literals out of a text; see literals.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__literals(void)
{
    memset(KIND, 0, sizeof KIND);
    memset(BEFORE_NAME, 0, sizeof BEFORE_NAME);
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
    return PyModule_Create(&module);
}
