// Command calls makes system calls, good and bad ones, and prints what they return. It is run in boxes of different rungs.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	bad     = uintptr(1 << 20) // no memory
	cwd     = ^uintptr(99)     // AT_FDCWD
	noLink  = uintptr(0x100)   // AT_SYMLINK_NOFOLLOW
	isEmpty = uintptr(0x1000)  // AT_EMPTY_PATH
	keep    = ^uintptr(0)
)

func str(s string) uintptr {
	b, _ := syscall.BytePtrFromString(s)
	pinned = append(pinned, b)
	return uintptr(unsafe.Pointer(b))
}

var pinned []*byte

func call(name string, nr uintptr, a ...uintptr) {
	var f [6]uintptr
	copy(f[:], a)
	v, _, e := syscall.Syscall6(nr, f[0], f[1], f[2], f[3], f[4], f[5])
	if e != 0 {
		v = 0
	}
	fmt.Println(name, int64(v), e.Error())
}

func show(names ...string) {
	for _, n := range names {
		var st syscall.Stat_t
		err := syscall.Lstat(n, &st)
		fmt.Printf("%s %d:%d %o %v\n", n, st.Uid, st.Gid, st.Mode, err)
	}
}

func main() {
	runtime.LockOSThread()
	switch os.Args[1] {
	case "chown":
		chown()
	case "ids":
		setIDs()
	case "hostile":
		hostile()
	case "speed":
		speed()
	case "race":
		race()
	case "racer":
		for stop := time.Now().Add(400 * time.Millisecond); time.Now().Before(stop); {
			_ = syscall.Chown("/a/f", 5, 5)
		}
	}
}

func chown() {
	_ = os.Chdir("/w")
	_ = os.Mkdir("d", 0o755)
	_ = os.WriteFile("f", nil, 0o644)
	_ = os.Symlink("f", "l")
	_ = os.Symlink("none", "dangling")
	_ = os.Symlink("loop", "loop")
	fd, _ := syscall.Open("f", syscall.O_RDONLY, 0)
	dir, _ := syscall.Open("d", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	place, _ := syscall.Open("f", 0x200000, 0)
	at := uintptr(syscall.SYS_FCHOWNAT)
	call("plain", at, cwd, str("f"), 5, 6, 0)
	show("f")
	call("keep user", at, cwd, str("f"), keep, 7, 0)
	call("keep group", at, cwd, str("f"), 8, 0xffffffff, 0)
	show("f")
	call("keep both", at, cwd, str("f"), keep, keep, 0)
	call("through a link", at, cwd, str("l"), 9, 9, 0)
	call("link", at, cwd, str("l"), 10, 10, noLink)
	show("f", "l")
	call("largest", at, cwd, str("f"), 0xfffffffe, 0xfffffffe, 0)
	show("f")
	call("missing", at, cwd, str("none"), 1, 1, 0)
	call("dangling", at, cwd, str("dangling"), 1, 1, 0)
	call("loop", at, cwd, str("loop"), 1, 1, 0)
	call("slash", at, cwd, str("f/"), 1, 1, 0)
	call("no folder", at, cwd, str("f/x"), 1, 1, 0)
	call("folder slash", at, cwd, str("d///"), 3, 3, noLink)
	call("dots", at, cwd, str("d/../../../../../w/d/."), 4, 4, 0)
	show("d")
	call("long", at, cwd, str(strings.Repeat("x", 256)), 1, 1, 0)
	call("longer", at, cwd, str(strings.Repeat("x/", 2200)), 1, 1, 0)
	call("empty", at, cwd, str(""), 1, 1, 0)
	call("empty cwd", at, cwd, str(""), 11, 11, isEmpty)
	show("/w")
	call("empty fd", at, uintptr(fd), str(""), 12, 12, isEmpty)
	call("empty place", at, uintptr(place), str(""), 13, 13, isEmpty)
	show("f")
	call("flags", at, cwd, str("f"), 1, 1, 1)
	call("bad fd", at, 77, str("f"), 1, 1, 0)
	call("fd of a file", at, uintptr(fd), str("f"), 1, 1, 0)
	call("bad fd, absolute", at, 77, str("/w/f"), 14, 14, 0)
	call("in folder", at, uintptr(dir), str("../f"), 15, 15, 0)
	call("fchown", syscall.SYS_FCHOWN, uintptr(fd), 16, 16)
	call("fchown place", syscall.SYS_FCHOWN, uintptr(place), 17, 17)
	call("fchown none", syscall.SYS_FCHOWN, 77, 17, 17)
	call("fchown negative", syscall.SYS_FCHOWN, keep, 17, 17)
	show("f")
	_ = syscall.Chmod("f", 0o6755)
	call("clears", at, cwd, str("f"), 1, keep, 0)
	show("f")
	_ = syscall.Chmod("f", 0o6745)
	call("keeps setgid", at, cwd, str("f"), keep, 1, 0)
	show("f")
	_ = syscall.Chmod("d", 0o6755)
	call("folders keep", at, cwd, str("d"), 1, 1, 0)
	show("d")
	call("read-only", at, cwd, str("/ro/f"), 1, 1, 0)
	call("own fd", at, cwd, str(fmt.Sprintf("/proc/self/fd/%d", fd)), 18, 18, 0)
	show("f")
	_ = syscall.Setxattr("f", "user.own", []byte("1"), 0)
	var names [64]byte
	n, err := syscall.Listxattr("f", names[:])
	fmt.Printf("attributes %q %v\n", names[:max(n, 0)], err)
	n, err = syscall.Listxattr("f", nil)
	fmt.Println(n, err)
	_, err = syscall.Listxattr("f", names[:3])
	fmt.Println(err)
	call("attributes of a link", syscall.SYS_LLISTXATTR, str("l"), 0, 0)
	call("attributes of an fd", syscall.SYS_FLISTXATTR, uintptr(fd), bad, 64)
	_ = os.Remove("f")
	call("removed", syscall.SYS_FCHOWN, uintptr(fd), 19, 19)
}

func setIDs() {
	ids := func() {
		var r, e, s uint32
		syscall.RawSyscall(syscall.SYS_GETRESUID, uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&e)), uintptr(unsafe.Pointer(&s)))
		fmt.Println("uid", r, e, s)
		syscall.RawSyscall(syscall.SYS_GETRESGID, uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&e)), uintptr(unsafe.Pointer(&s)))
		fmt.Println("gid", r, e, s)
	}
	var groups [4]uint32
	list := uintptr(unsafe.Pointer(&groups[0]))
	ids()
	groups = [4]uint32{3, 1, 2, 9}
	call("setgroups", syscall.SYS_SETGROUPS, 3, list)
	call("setgroups bad", syscall.SYS_SETGROUPS, 3, bad)
	call("setgroups many", syscall.SYS_SETGROUPS, 65537, list)
	call("getgroups", syscall.SYS_GETGROUPS, 0, 0)
	call("getgroups few", syscall.SYS_GETGROUPS, 2, list)
	call("getgroups negative", syscall.SYS_GETGROUPS, keep, list)
	call("setgid", syscall.SYS_SETGID, 0xffffffff)
	call("setresgid", syscall.SYS_SETRESGID, 5, 6, 7)
	ids()
	call("setregid", syscall.SYS_SETREGID, 8, keep)
	ids()
	call("setfsgid", syscall.SYS_SETFSGID, 9)
	call("setfsgid", syscall.SYS_SETFSGID, keep)
	call("setreuid", syscall.SYS_SETREUID, keep, 4)
	ids()
	call("setuid", syscall.SYS_SETUID, 3)
	call("setgroups of a user", syscall.SYS_SETGROUPS, 3, list)
	call("setresuid", syscall.SYS_SETRESUID, 4, 0, keep)
	ids()
	call("setresuid", syscall.SYS_SETRESUID, 1000, 1001, 1002)
	call("setuid", syscall.SYS_SETUID, 1002)
	ids()
	call("setreuid", syscall.SYS_SETREUID, 1002, 1000)
	ids()
	call("setreuid", syscall.SYS_SETREUID, 1001, keep)
	call("setfsuid", syscall.SYS_SETFSUID, 5)
	call("setfsuid", syscall.SYS_SETFSUID, keep)
	call("setuid", syscall.SYS_SETUID, 0)
	call("setgid", syscall.SYS_SETGID, 0)
	call("setgid", syscall.SYS_SETGID, 8)
	call("getresuid", syscall.SYS_GETRESUID, bad, bad, bad)
	ids()
	_ = os.Chdir("/w")
	call("chown of another", syscall.SYS_FCHOWNAT, cwd, str("."), 1002, 1002, 0)
	call("nothing of another", syscall.SYS_FCHOWNAT, cwd, str("."), keep, keep, 0)
	call("mkdir", syscall.SYS_MKDIRAT, cwd, str("no"), 0o755)
	call("open", syscall.SYS_OPENAT, cwd, str("no"), syscall.O_CREAT|syscall.O_WRONLY, 0o755)
}

func hostile() {
	for _, nr := range []uintptr{
		syscall.SYS_FCHOWNAT, syscall.SYS_OPENAT, syscall.SYS_MKDIRAT, syscall.SYS_MKNODAT, syscall.SYS_RENAMEAT, syscall.SYS_LINKAT,
		syscall.SYS_SYMLINKAT, syscall.SYS_EXECVE, syscall.SYS_FACCESSAT,
	} {
		call("bad path", nr, cwd, bad, syscall.O_CREAT, bad)
	}
	call("bad paths", syscall.SYS_SYMLINKAT, bad, cwd, str("x"))
	call("bad paths", syscall.SYS_RENAMEAT, cwd, str("x"), cwd, bad)
	_ = os.WriteFile("/w/h", nil, 0o644)
	_ = os.Chown("/w/h", 1, 1)
	var st syscall.Stat_t
	call("bad buffer", syscall.SYS_FSTAT, 77, uintptr(unsafe.Pointer(&st)))
	fd, _ := syscall.Open("/w/h", syscall.O_RDONLY, 0)
	call("bad buffer", syscall.SYS_FSTAT, uintptr(fd), bad)
	// A path that ends with the last byte of the last page.
	page, _ := syscall.Mmap(-1, 0, 8192, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	_ = syscall.Mprotect(page[4096:], syscall.PROT_NONE)
	copy(page[4096-5:], "/w/h\x00")
	call("end of a page", syscall.SYS_FCHOWNAT, cwd, uintptr(unsafe.Pointer(&page[4096-5])), 2, 2, 0)
	page[4095] = 'x'
	call("beyond a page", syscall.SYS_FCHOWNAT, cwd, uintptr(unsafe.Pointer(&page[4096-5])), 2, 2, 0)
	show("/w/h")
	for _, p := range []string{"/proc/self/../1/root/nothing", "/proc/self/fd/77", "/dev/fd/x"} {
		call("not there", syscall.SYS_FCHOWNAT, cwd, str(p), 2, 2, 0)
	}
}

// speed prints microseconds for each chown.
func speed() {
	_ = os.WriteFile("/w/s", nil, 0o644)
	const n = 20000
	start := time.Now()
	for i := range n {
		if err := syscall.Chown("/w/s", i+1, 7); err != nil {
			panic(err)
		}
	}
	fmt.Println(time.Since(start).Microseconds() / n)
}

// race swaps a folder for a link out of a root while others change owners in it.
func race() {
	_ = os.MkdirAll("/w/jail/a", 0o755)
	_ = os.MkdirAll("/w/outside", 0o755)
	_ = os.WriteFile("/w/jail/a/f", nil, 0o644)
	_ = os.WriteFile("/w/outside/f", nil, 0o644)
	_ = os.Symlink("../outside", "/w/jail/b")
	program, _ := os.ReadFile("/bin/calls")
	_ = os.WriteFile("/w/jail/calls", program, 0o755)
	stop := time.Now().Add(500 * time.Millisecond)
	var all sync.WaitGroup
	all.Add(1)
	go func() {
		defer all.Done()
		for time.Now().Before(stop) {
			_ = os.Rename("/w/jail/a", "/w/jail/c")
			_ = os.Rename("/w/jail/b", "/w/jail/a")
			_ = os.Rename("/w/jail/a", "/w/jail/b")
			_ = os.Rename("/w/jail/c", "/w/jail/a")
		}
	}()
	for range 2 {
		all.Add(1)
		go func() {
			defer all.Done()
			c := exec.Command("/calls", "racer")
			c.SysProcAttr, c.Stderr = &syscall.SysProcAttr{Chroot: "/w/jail"}, os.Stdout
			if err := c.Run(); err != nil {
				fmt.Println(err)
			}
		}()
	}
	all.Wait()
	show("/w/outside/f")
}
