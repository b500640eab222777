/* SHA-256 and HMAC-SHA256 by the OpenSSL that Python's own _hashlib has loaded, without an object of Python's for each
   digest: for a line of the log those cost twice as much as the hashing. digest.py says what both give, and does the same
   where there is no such OpenSSL.

   By the functions of SHA-256 alone, which OpenSSL 3 calls deprecated and still has: those of EVP take as long to begin
   and to end a digest as the processor's own instructions take for it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>

#include "_digest.h"

#define SIZE SHA256_SIZE

/* As openssl/sha.h of 1.1.1 and 3 declares them; a SHA256_CTX has 112 bytes. */
static int (*init)(void *context);
static int (*update)(void *context, const void *data, size_t size);
static int (*final)(unsigned char *digest, void *context);

static int hash(unsigned char *digest, const void *first, size_t first_size, const void *second, size_t second_size)
{
    _Alignas(16) unsigned char context[256];
    if (init(context) && update(context, first, first_size) &&
        (second_size == 0 || update(context, second, second_size)) && final(digest, context))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "OpenSSL did not make a digest");
    return -1;
}

/* Hashes a bytes object and what is behind it. */
static int hash_behind(unsigned char *digest, PyObject *first, const void *second, size_t size)
{
    return hash(digest, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first), second, size);
}

static int mac_of(unsigned char *mac, PyObject *const *pads, PyObject *message)
{
    if (hash_behind(mac, pads[0], PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)) < 0)
        return -1;
    return hash_behind(mac, pads[1], mac, SIZE);
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
    unsigned char mac[SIZE];
    if (!are_bytes(given, count, 3) || mac_of(mac, given, given[2]) < 0)
        return NULL;
    return PyBytes_FromStringAndSize((const char *)mac, SIZE);
}

static PyObject *is_hmac_sha256(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    unsigned char mac[SIZE];
    if (!are_bytes(given, count, 4) || mac_of(mac, given, given[2]) < 0)
        return NULL;
    if (PyBytes_GET_SIZE(given[3]) != SIZE)
        Py_RETURN_FALSE;
    /* All of it, so that the time does not tell where they differ. */
    const unsigned char *other = (const unsigned char *)PyBytes_AS_STRING(given[3]);
    unsigned char differs = 0;
    for (int i = 0; i < SIZE; i++)
        differs |= mac[i] ^ other[i];
    return PyBool_FromLong(differs == 0);
}

static PyMethodDef methods[] = {
    {"sha256", (PyCFunction)(void (*)(void))sha256, METH_FASTCALL, "Hashes two parts; see digest.py."},
    {"hmac_sha256", (PyCFunction)(void (*)(void))hmac_sha256, METH_FASTCALL, "Makes a MAC; see digest.py."},
    {"is_hmac_sha256", (PyCFunction)(void (*)(void))is_hmac_sha256, METH_FASTCALL, "Checks a MAC; see digest.py."},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_digest",
    .m_doc = "SHA-256 and HMAC-SHA256 by OpenSSL; see digest.py.",
    .m_size = -1,
    .m_methods = methods,
};

/* Tells whether OpenSSL is to do as FIPS says. Then these functions are not to be asked: they know nothing of it, and
   those of a patched 1.1.1 end the process. */
static int is_fips(void *loaded)
{
    int (*of_3)(void *library);
    int (*of_1)(void);
    *(void **)&of_3 = dlsym(loaded, "EVP_default_properties_is_fips_enabled");
    *(void **)&of_1 = dlsym(loaded, "FIPS_mode");
    return (of_3 != NULL && of_3(NULL)) || (of_1 != NULL && of_1());
}

/* Finds the functions in what _hashlib was linked to. False, with no error set, where they are not. */
static int find(const char *path)
{
    void *loaded = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (loaded == NULL || is_fips(loaded))
        return 0;
    *(void **)&init = dlsym(loaded, "SHA256_Init");
    *(void **)&update = dlsym(loaded, "SHA256_Update");
    *(void **)&final = dlsym(loaded, "SHA256_Final");
    return init != NULL && update != NULL && final != NULL;
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
    PyErr_SetString(PyExc_ImportError, "Python's _hashlib is linked to no OpenSSL that is found, or FIPS is asked for");
    return NULL;
}
