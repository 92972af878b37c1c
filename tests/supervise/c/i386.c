/* A real 32-bit program, whose code segment is the 32-bit one. It needs no library: gcc -m32 -nostdlib -static.
 * Makes chown32, setgroups (16-bit), setresgid32 and setresuid (16-bit) and ends with the number of the first that
 * failed, or 20 + the first one that gave the wrong ids. */
typedef unsigned short u16;

static long call(long nr, long a, long b, long c)
{
    long ret, bx = a, cx = b, dx = c;
    __asm__ volatile("int $0x80" : "=a"(ret), "+b"(bx), "+c"(cx), "+d"(dx) : "0"(nr) : "memory");
    if (bx != a || cx != b || dx != c)
        __asm__ volatile("int $0x80" : : "a"(1), "b"(40)); /* registers must come back as they were */
    return ret;
}

void _start(void)
{
    u16 groups[2] = {65532, 50000}, got[4];
    unsigned id[3];
    int bad = 0;
    if (call(212, (long)"file32", 1000660000, -1))
        bad = 1;
    else if (call(81, 2, (long)groups, 0))
        bad = 2;
    else if (groups[0] != 65532 || groups[1] != 50000)
        bad = 22;
    else if (call(80, 4, (long)got, 0) != 2 || got[0] + got[1] != 1556 + 1744)
        bad = 23;
    else if (call(210, 65532, 65533, 1185200044))
        bad = 3;
    else if (call(211, (long)&id[0], (long)&id[1], (long)&id[2]) || id[0] != 1556 || id[1] != 1557 || id[2] != 1000 + 1185200044 % 1048)
        bad = 24;
    else if (call(164, 65532, 65532, 0xffff)) /* -1 in 16 bits: the saved one stays */
        bad = 4;
    else if (call(209, (long)&id[0], (long)&id[1], (long)&id[2]) || id[0] != 1556 || id[1] != 1556 || id[2] != 0)
        bad = 25;
    call(1, bad, 0, 0);
    for (;;)
        ;
}
