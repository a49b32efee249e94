package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// transfer copies between buf and the memory of the caller: as much as is there, from addr on. The memory is the caller's for sure only if r is still
// valid: before a write that is for the handler to check.
func (r *request) transfer(addr uint64, buf []byte, write bool) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	call := unix.ProcessVMReadv
	if write {
		call = unix.ProcessVMWritev
	}
	n, err := call(int(r.pid), local, remote, 0)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		n, err = r.file(addr, buf, write) // what a seccomp profile around strake does not forbid
	}
	if err != nil {
		return 0, unix.EFAULT
	}
	return n, nil
}

// file is transfer by /proc/PID/mem.
func (r *request) file(addr uint64, buf []byte, write bool) (int, error) {
	mem, err := unix.Openat(r.s.proc, strconv.Itoa(int(r.pid))+"/mem", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(mem)
	if write {
		return unix.Pwrite(mem, buf, int64(addr))
	}
	return unix.Pread(mem, buf, int64(addr))
}

// load fills buf from the caller's memory.
func (r *request) load(addr uint64, buf []byte) error {
	if n, err := r.transfer(addr, buf, false); err != nil || n != len(buf) {
		return unix.EFAULT
	}
	return nil
}

// store writes data to the caller's memory.
func (r *request) store(addr uint64, data []byte) error {
	if err := r.valid(); err != nil {
		return err
	}
	if n, err := r.transfer(addr, data, true); err != nil || n != len(data) {
		return unix.EFAULT
	}
	return nil
}

// store32 writes numbers to places in the caller's memory, each of size bytes.
func (r *request) store32(size int, addrs []uint64, values []uint32) error {
	for i, v := range values {
		buf := binary.NativeEndian.AppendUint32(nil, v)
		if size == 2 {
			buf = binary.NativeEndian.AppendUint16(nil, uint16(v))
		}
		if err := r.store(addrs[i], buf); err != nil {
			return err
		}
	}
	return nil
}

// text reads a path from the caller's memory, page by page: what comes after its end may not be there.
func (r *request) text(addr uint64) (string, error) {
	page := uint64(os.Getpagesize())
	buf := make([]byte, 0, 256)
	for len(buf) < unix.PathMax {
		at := addr + uint64(len(buf))
		size := min(256, int(page-at%page), unix.PathMax-len(buf))
		old := len(buf)
		buf = append(buf, make([]byte, size)...)
		n, err := r.transfer(at, buf[old:], false)
		if err != nil || n == 0 {
			return "", unix.EFAULT
		}
		if end := bytes.IndexByte(buf[old:old+n], 0); end >= 0 {
			return string(buf[:old+end]), nil
		}
		buf = buf[:old+n]
	}
	return "", unix.ENAMETOOLONG
}
