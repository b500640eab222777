/* SHA-256 and HMAC-SHA256 by the OpenSSL that Python's own _hashlib has loaded, without an object of Python's for each
   digest: for a line of the log those cost twice as much as the hashing. digest.py says what both give, and does the same
   where there is no such OpenSSL.

   One context for all of the process, which is used with the interpreter's lock held. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>

#include "_digest.h"

#define SIZE SHA256_SIZE

/* As openssl/evp.h of 1.1.1 and 3 declares them. */
static int (*init)(void *context, const void *type, void *engine);
static int (*update)(void *context, const void *data, size_t size);
static int (*final)(void *context, unsigned char *digest, unsigned int *size);
static void *context;

static int hash(unsigned char *digest, const void *first, size_t first_size, const void *second, size_t second_size)
{
    unsigned int made = 0;
    /* With no type: of that of the time before, which is not looked up. */
    int done = init(context, NULL, NULL) && update(context, first, first_size) &&
               (second_size == 0 || update(context, second, second_size)) && final(context, digest, &made);
    if (done && made == SIZE)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "OpenSSL did not make a digest");
    return -1;
}

/* Hashes a bytes object and what is behind it. */
static int hash_behind(unsigned char *digest, PyObject *first, const void *second, size_t size)
{
    return hash(digest, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first), second, size);
}

static int are_bytes(PyObject *const *given, Py_ssize_t count, Py_ssize_t expected)
{
    int right = count == expected;
    for (Py_ssize_t i = 0; right && i < count; i++)
        right = PyBytes_Check(given[i]);
    if (!right)
        PyErr_SetString(PyExc_TypeError, "a digest is made of bytes");
    return right;
}

static PyObject *sha256(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    unsigned char digest[SIZE];
    if (!are_bytes(given, count, 2) ||
        hash_behind(digest, given[0], PyBytes_AS_STRING(given[1]), PyBytes_GET_SIZE(given[1])) < 0)
        return NULL;
    return PyBytes_FromStringAndSize((const char *)digest, SIZE);
}

static PyObject *hmac_sha256(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    unsigned char digest[SIZE];
    if (!are_bytes(given, count, 3) ||
        hash_behind(digest, given[0], PyBytes_AS_STRING(given[2]), PyBytes_GET_SIZE(given[2])) < 0 ||
        hash_behind(digest, given[1], digest, SIZE) < 0)
        return NULL;
    return PyBytes_FromStringAndSize((const char *)digest, SIZE);
}

static PyMethodDef methods[] = {
    {"sha256", (PyCFunction)(void (*)(void))sha256, METH_FASTCALL, "Hashes two parts; see digest.py."},
    {"hmac_sha256", (PyCFunction)(void (*)(void))hmac_sha256, METH_FASTCALL, "Makes a MAC; see digest.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_digest",
    .m_doc = "SHA-256 and HMAC-SHA256 by OpenSSL; see digest.py.",
    .m_size = -1,
    .m_methods = methods,
};

/* Finds the functions in what _hashlib was linked to. False, with no error set, where they are not. */
static int find(const char *path)
{
    void *loaded = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (loaded == NULL)
        return 0;
    void *(*new)(void);
    const void *(*type)(void);
    *(void **)&new = dlsym(loaded, "EVP_MD_CTX_new");
    *(void **)&type = dlsym(loaded, "EVP_sha256");
    *(void **)&init = dlsym(loaded, "EVP_DigestInit_ex");
    *(void **)&update = dlsym(loaded, "EVP_DigestUpdate");
    *(void **)&final = dlsym(loaded, "EVP_DigestFinal_ex");
    if (new == NULL || type == NULL || init == NULL || update == NULL || final == NULL)
        return 0;
    context = new();
    return context != NULL && init(context, type(), NULL);
}

PyMODINIT_FUNC PyInit__digest(void)
{
    PyObject *hashlib = PyImport_ImportModule("_hashlib");
    PyObject *path = hashlib == NULL ? NULL : PyObject_GetAttrString(hashlib, "__file__");
    const char *text = path == NULL ? NULL : PyUnicode_AsUTF8(path);
    int found = text != NULL && find(text);
    Py_XDECREF(path);
    Py_XDECREF(hashlib);
    if (found) {
        PyObject *made = PyModule_Create(&module);
        PyObject *capsule = made == NULL ? NULL : PyCapsule_New((void *)(uintptr_t)hash, SHA256_CAPSULE, NULL);
        if (capsule == NULL || PyModule_AddObjectRef(made, SHA256_NAME, capsule) < 0)
            Py_CLEAR(made);
        Py_XDECREF(capsule);
        return made;
    }
    PyErr_SetString(PyExc_ImportError, "Python's _hashlib is not linked to an OpenSSL that is found");
    return NULL;
}
