package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/supervisor"
)

// mountText are /proc/mounts and /proc/self/mountinfo of what a step can see.
const (
	mountText = "overlay / overlay rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n" +
		"tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755 0 0\nsysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0\n"
	mountinfoText = "100 99 0:100 / / rw,relatime - overlay overlay rw\n101 100 0:101 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n" +
		"102 100 0:102 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755\n103 100 0:103 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n"
)

// fillProc puts into the directory that becomes the tree's /proc what links lead to (/etc/mtab), and what is not the machine's.
func (b *box) fillProc(as string) error {
	dir, err := unix.Openat(b.aside, as, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making /proc: %w", err)
	}
	defer unix.Close(dir)
	for name, text := range map[string]string{"self/mounts": mountText, "self/mountinfo": mountinfoText, "cmdline": "\n", "sys/kernel/hostname": b.Hostname + "\n"} {
		if err := makeFile(dir, name, 0o444, []byte(text)); err != nil {
			return fmt.Errorf("making /proc/%s: %w", name, err)
		}
	}
	if program := supervisor.Reexec(); program != nil {
		if err := makeFile(dir, "self/exe", 0o555, program); err != nil {
			return fmt.Errorf("making /proc/self/exe: %w", err)
		}
	}
	for _, name := range []string{"self/fd", "self/task"} { // for chdir; what is in them is asked of the supervisor
		if err := unix.Mkdirat(dir, name, 0o555); err != nil {
			return fmt.Errorf("making /proc/%s: %w", name, err)
		}
	}
	for name, target := range map[string]string{"mounts": "self/mounts", "thread-self": "self"} {
		if err := unix.Symlinkat(target, dir, name); err != nil {
			return fmt.Errorf("making /proc/%s: %w", name, err)
		}
	}
	return nil
}

// makeFile makes a file of the mode, and the directories above it.
func makeFile(dir int, name string, mode uint32, data []byte) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := unix.Mkdirat(dir, name[:i], 0o555); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	fd, err := unix.Openat(dir, strings.TrimPrefix(path.Clean(name), "/"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, data)
	return err
}
