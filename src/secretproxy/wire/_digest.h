/* What _digest.c gives to other modules in C, in a capsule of this name: SHA-256 over two parts, one behind the other,
   into the 32 bytes of `digest`. The second part may be empty. -1: OpenSSL made none, and Python's error is set. To be
   called with the interpreter's lock held. */

#define SHA256_SIZE 32
#define SHA256_MODULE "secretproxy.wire._digest"
#define SHA256_NAME "hash"
#define SHA256_CAPSULE SHA256_MODULE "." SHA256_NAME

typedef int (*sha256_function)(unsigned char *digest, const void *first, size_t first_size, const void *second,
                               size_t second_size);
