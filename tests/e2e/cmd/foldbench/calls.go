package main

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"
)

// fdCwd is AT_FDCWD. arm64 has no call to give a file away but fchownat.
const fdCwd = ^uintptr(100 - 1)

const (
	getppid       = "getppid, fastest batch"
	passedChown   = "chown, id mapped: not notified"
	notifiedChown = "chown, id not mapped: notified"
	passedSetid   = "setresuid, id mapped: not notified"
	foldedSetid   = "setresuid, id not mapped: folded"
	passedGroups  = "setgroups, ids mapped: let through"
	foldedGroups  = "setgroups, ids not mapped: folded"
	quietXattr    = "setxattr, 256 lengths: 1 in 8 asks"
	passedXattr   = "setxattr, length of a list: let through"
	foldedXattr   = "setxattr of a list, id not mapped: folded"
)

var measured = []string{
	getppid, passedChown, notifiedChown, passedSetid, foldedSetid, passedGroups, foldedGroups, quietXattr, passedXattr, foldedXattr,
}

const same = ^uintptr(0) // -1: no change

var callGetppid = func(int) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
	return e
}

// leastFilter puts a filter on this thread that allows everything: no filter can cost less.
func leastFilter() error {
	runtime.LockOSThread()
	allow := struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}{syscall.BPF_RET | syscall.BPF_K, 0, 0, 0x7fff0000}
	program := struct {
		length uint16
		filter unsafe.Pointer
	}{1, unsafe.Pointer(&allow)}
	const prSetSeccomp, modeFilter = 22, 2
	if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prSetSeccomp, modeFilter, uintptr(unsafe.Pointer(&program))); e != 0 {
		return e
	}
	return nil
}

// floor writes to stdout what getppid takes below such a filter.
func floor(string) error {
	if err := leastFilter(); err != nil {
		return err
	}
	call := callGetppid // called as below, since that counts too
	var took []time.Duration
	for range 300 {
		began := time.Now()
		for i := range 2000 {
			if e := call(i); e != 0 {
				return e
			}
		}
		took = append(took, time.Since(began)/2000)
	}
	fmt.Println(slices.Min(took))
	return nil
}

// calls makes every kind of call many times and writes each kind's median to stdout, of getppid the fastest. What the
// kernel refuses, for lack of a supervisor, is left out.
func calls(dir string) error {
	// Raw calls change the thread's ids only.
	runtime.LockOSThread()
	file := filepath.Join(dir, "file")
	fd, err := syscall.Open(file, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	path := append([]byte(file), 0)
	at := uintptr(unsafe.Pointer(&path[0]))
	chown := func(id uintptr) syscall.Errno {
		_, _, e := syscall.RawSyscall6(syscall.SYS_FCHOWNAT, fdCwd, at, id, id, 0, 0)
		return e
	}
	groups := func(ids []uint32) syscall.Errno {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(&ids[0])), 0)
		return e
	}
	effective := func(id uintptr) syscall.Errno {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, same, id, same)
		return e
	}
	attribute := func(name string, value []byte) syscall.Errno {
		if err := syscall.Setxattr(file, name, value, 0); err != nil {
			return err.(syscall.Errno)
		}
		return 0
	}
	var any [256]byte
	list := make([]byte, 44)
	for i, word := range []uint32{2, 6<<16 | 1, ^uint32(0), 4<<16 | 2, 50000, 4<<16 | 4, ^uint32(0), 6<<16 | 16, ^uint32(0), 32, ^uint32(0)} {
		binary.LittleEndian.PutUint32(list[4*i:], word)
	}
	for _, c := range []struct {
		name           string
		samples, batch int // a sample is a batch's mean
		call           func(i int) syscall.Errno
		back           func() syscall.Errno // not measured
	}{
		{getppid, 300, 2000, callGetppid, nil},
		{passedChown, 200, 300, func(i int) syscall.Errno { return chown(uintptr(1000 + i%2)) }, nil},
		{notifiedChown, 4000, 1, func(i int) syscall.Errno { return chown(uintptr(50000 + i%2)) }, nil},
		{passedSetid, 1000, 1, func(int) syscall.Errno { return effective(1000) }, func() syscall.Errno { return effective(0) }},
		{foldedSetid, 1000, 1, func(int) syscall.Errno { return effective(50000) }, func() syscall.Errno { return effective(0) }},
		{passedGroups, 1000, 1, func(int) syscall.Errno { return groups([]uint32{4, 27, 1000}) }, nil},
		{foldedGroups, 1000, 1, func(int) syscall.Errno { return groups([]uint32{50000, 65534, 27}) }, nil},
		{quietXattr, 20, 256, func(i int) syscall.Errno { return attribute("user.x", any[:i%256]) }, nil},
		{passedXattr, 2000, 1, func(i int) syscall.Errno { return attribute("user.x", any[:44]) }, nil},
		{foldedXattr, 1000, 1, func(i int) syscall.Errno { return attribute("system.posix_acl_access", list) }, nil},
	} {
		if e := c.call(0); e == syscall.EINVAL {
			continue
		}
		if c.back != nil {
			c.back()
		}
		took := make([]time.Duration, c.samples)
		for i := range took {
			began := time.Now()
			for j := range c.batch {
				if e := c.call(i + j); e != 0 {
					return fmt.Errorf("%s: %w", c.name, e)
				}
			}
			took[i] = time.Since(began) / time.Duration(c.batch)
			if c.back != nil {
				if e := c.back(); e != 0 {
					return fmt.Errorf("back from %s: %w", c.name, e)
				}
			}
		}
		spent := median(took)
		if c.name == getppid { // nanoseconds count
			spent = slices.Min(took)
		}
		fmt.Printf("%s\t%v\n", c.name, spent)
	}
	runtime.KeepAlive(path)
	return nil
}
