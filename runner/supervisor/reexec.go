package supervisor

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

// Reexec returns a program, which lies in the tree as /proc/self/exe: the kernel executes it where a proc file system would have it execute the
// caller's program. It opens its own name, for which the supervisor gives it the program of before, or a directory that has that as exe, and executes
// it with the arguments and environment that it got itself. If it cannot, it says so and exits with code 126. It is nil for processors that it was not written for.
//
// In C:
//
//	int fd = openat(AT_FDCWD, "/proc/self/exe", O_PATH|O_CLOEXEC);
//	if (fd >= 0) {
//		execveat(fd, "exe", argv, envp, AT_EMPTY_PATH);
//		if (errno == ENOTDIR)
//			execveat(fd, "", argv, envp, AT_EMPTY_PATH);
//	}
//	dprintf(2, "%s%03d\n", text, errno);
//	exit_group(126);
func Reexec() []byte {
	const machineAMD64, machineARM64 = 62, 183
	switch runtime.GOARCH {
	case "amd64":
		return executable(machineAMD64, []byte(reexecAMD64))
	case "arm64":
		return executable(machineARM64, littleEndian(reexecARM64()))
	}
	return nil
}

// What follows the code: the name, whose last byte is the empty string as well, and the text.
const (
	reexecName = "/proc/self/exe\x00"
	reexecText = "strake: executing /proc/self/exe again: error number "
)

const reexecAMD64 = "" +
	"\xb8\x01\x01\x00\x00" + // mov eax, 257 (openat)
	"\xbf\x9c\xff\xff\xff" + // mov edi, AT_FDCWD
	"\x48\x8d\x35\x96\x00\x00\x00" + // lea rsi, [name]
	"\xba\x00\x00\x28\x00" + // mov edx, O_PATH|O_CLOEXEC
	"\x0f\x05" + // syscall
	"\x85\xc0" + // test eax, eax
	"\x78\x37" + // js fail
	"\x89\xc7" + // mov edi, eax
	"\x48\x8d\x35\x8d\x00\x00\x00" + // lea rsi, [name+11] ("exe")
	"\x4c\x8b\x0c\x24" + // mov r9, [rsp] (argc)
	"\x48\x8d\x54\x24\x08" + // lea rdx, [rsp+8] (argv)
	"\x4e\x8d\x54\xcc\x10" + // lea r10, [rsp+r9*8+16] (envp)
	"\x41\xb8\x00\x10\x00\x00" + // mov r8d, AT_EMPTY_PATH
	"\xb8\x42\x01\x00\x00" + // mov eax, 322 (execveat)
	"\x0f\x05" + // syscall
	"\x83\xf8\xec" + // cmp eax, -ENOTDIR
	"\x75\x0e" + // jne fail
	"\x48\x8d\x35\x69\x00\x00\x00" + // lea rsi, [name+14] ("")
	"\xb8\x42\x01\x00\x00" + // mov eax, 322 (execveat)
	"\x0f\x05" + // syscall
	"\xf7\xd8" + // fail: neg eax
	"\xb9\x0a\x00\x00\x00" + // mov ecx, 10
	"\x31\xd2" + // xor edx, edx
	"\xf7\xf1" + // div ecx
	"\x89\xd6" + // mov esi, edx (ones)
	"\x31\xd2" + // xor edx, edx
	"\xf7\xf1" + // div ecx (hundreds, tens)
	"\xc1\xe2\x08" + // shl edx, 8
	"\xc1\xe6\x10" + // shl esi, 16
	"\x8d\x84\x10\x30\x30\x30\x0a" + // lea eax, [rax+rdx+"000\n"]
	"\x01\xf0" + // add eax, esi
	"\x50" + // push rax
	"\xbf\x02\x00\x00\x00" + // mov edi, 2
	"\x48\x8d\x35\x36\x00\x00\x00" + // lea rsi, [text]
	"\xba\x35\x00\x00\x00" + // mov edx, len(text)
	"\xb8\x01\x00\x00\x00" + // mov eax, 1 (write)
	"\x0f\x05" + // syscall
	"\x48\x89\xe6" + // mov rsi, rsp
	"\xba\x04\x00\x00\x00" + // mov edx, 4
	"\xb8\x01\x00\x00\x00" + // mov eax, 1 (write)
	"\x0f\x05" + // syscall
	"\xbf\x7e\x00\x00\x00" + // mov edi, 126
	"\xb8\xe7\x00\x00\x00" + // mov eax, 231 (exit_group)
	"\x0f\x05" // syscall

func reexecARM64() []uint32 {
	return []uint32{
		0xd2800708, // mov x8, #56 (openat)
		0x92800c60, // mov x0, #AT_FDCWD
		0x10000561, // adr x1, name
		0xd2a00502, // mov x2, #O_PATH|O_CLOEXEC
		0xaa1f03e3, // mov x3, xzr
		0xd4000001, // svc #0
		0x37f801e0, // tbnz w0, #31, fail
		0xaa0003e5, // mov x5, x0
		0x700004e1, // adr x1, name+11 ("exe")
		0xf94003e4, // ldr x4, [sp] (argc)
		0x910023e2, // add x2, sp, #8 (argv)
		0x8b040c43, // add x3, x2, x4, lsl #3
		0x91002063, // add x3, x3, #8 (envp)
		0xd2820004, // mov x4, #AT_EMPTY_PATH
		0xd2802328, // mov x8, #281 (execveat)
		0xd4000001, // svc #0
		0x3100501f, // cmn w0, #ENOTDIR
		0x54000081, // b.ne fail
		0xaa0503e0, // mov x0, x5
		0x91000c21, // add x1, x1, #3 ("")
		0xd4000001, // svc #0
		0x4b0003e0, // fail: neg w0, w0
		0x52800141, // mov w1, #0xa
		0x1ac10802, // udiv w2, w0, w1
		0x1b018043, // msub w3, w2, w1, w0 (ones)
		0x1ac10844, // udiv w4, w2, w1 (hundreds)
		0x1b018885, // msub w5, w4, w1, w2 (tens)
		0x2a052084, // orr w4, w4, w5, lsl #8
		0x2a034084, // orr w4, w4, w3, lsl #16
		0x52860605, // mov w5, #"00"
		0x72a14605, // movk w5, #"0\n", lsl #16
		0x0b050084, // add w4, w4, w5
		0xb81f0fe4, // str w4, [sp, #-16]!
		0xd2800808, // mov x8, #64 (write)
		0xd2800040, // mov x0, #2
		0x700001a1, // adr x1, text
		0xd28006a2, // mov x2, #len(text)
		0xd4000001, // svc #0
		0xd2800040, // mov x0, #2
		0x910003e1, // mov x1, sp
		0xd2800082, // mov x2, #4
		0xd4000001, // svc #0
		0xd2800fc0, // mov x0, #126
		0xd2800bc8, // mov x8, #94 (exit_group)
		0xd4000001, // svc #0
	}
}

func littleEndian(words []uint32) []byte {
	var out []byte
	for _, w := range words {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// executable makes a file of code that does not mind where it is (elf(5)): a header, one segment, and the code.
func executable(machine uint16, code []byte) []byte {
	const address, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code) + len(reexecName) + len(reexecText))
	var out bytes.Buffer
	for _, field := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, // 64 bits, little-endian
		uint16(2), machine, uint32(1),          // an executable
		uint64(address + headers), uint64(64), uint64(0), uint32(0), // entry, offsets of the headers of segments and sections, flags
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0), // sizes and numbers of headers
		uint32(1), uint32(5), // loaded, to be read and executed
		uint64(0), uint64(address), uint64(address), size, size, uint64(0x10000), // offset, addresses, sizes, alignment
		code, []byte(reexecName + reexecText),
	} {
		_ = binary.Write(&out, binary.LittleEndian, field) // a Buffer takes everything
	}
	return out.Bytes()
}
