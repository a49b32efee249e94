package runner

import (
	"os"
	"strings"
	"testing"
)

// inventory lists what a box is made of: its mounts, devices, namespaces and rights.
const inventory = `
while read -r _ at kind options _; do
	case $at in /sys/fs/cgroup*) continue;; esac
	echo "mount $at $kind ${options%%,*}"
done < /proc/mounts | sort -u
cd /dev; for f in *; do test -L $f && echo "dev $f -> $(readlink $f)" || stat -c 'dev %n %F %t:%T' $f; done
for n in ipc mnt net pid uts cgroup user; do echo "ns $n $(readlink /proc/self/ns/$n)"; done
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr '\t' ' '
for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do test ! -e $f || stat -c 'masked %n %F %t:%T' $f; done
for f in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do test ! -d $f || echo "masked $f $(ls $f | wc -l)"; done`

// allowed are the lines of an inventory that there may be; the others must be there.
func allowed() (must, may []string) {
	must = []string{
		"mount / overlay rw", "mount /proc proc rw", "mount /dev tmpfs rw", "mount /dev/pts devpts rw", "mount /dev/mqueue mqueue rw", "mount /dev/shm tmpfs rw",
		"mount /etc/hosts tmpfs ro", "mount /etc/resolv.conf tmpfs ro", "mount /sys sysfs ro", "mount /proc/sys proc ro",
		"dev fd -> /proc/self/fd", "dev stdin -> /proc/self/fd/0", "dev stdout -> /proc/self/fd/1", "dev stderr -> /proc/self/fd/2", "dev ptmx -> pts/ptmx",
		"dev null character special file 1:3", "dev zero character special file 1:5", "dev full character special file 1:7", "dev random character special file 1:8",
		"dev urandom character special file 1:9", "dev tty character special file 5:0", "dev pts directory 0:0", "dev mqueue directory 0:0", "dev shm directory 0:0",
		"CapInh: 0000000000000000", "CapPrm: 00000000a80425fb", "CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "CapAmb: 0000000000000000", "NoNewPrivs: 0", "Seccomp: 2",
		"masked /proc/keys character special file 1:3", "masked /proc/timer_list character special file 1:3",
	}
	may = []string{"dev core -> /proc/kcore"}
	for _, p := range []string{"bus", "fs", "irq", "sysrq-trigger"} {
		may = append(may, "mount /proc/"+p+" proc ro")
	}
	for _, p := range []string{"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		may = append(may, "mount "+p+" tmpfs ro", "masked "+p+" 0")
	}
	for _, p := range []string{"interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug"} {
		may = append(may, "mount /proc/"+p+" tmpfs rw", "mount /proc/"+p+" devtmpfs ro", "mount /proc/"+p+" tmpfs ro", "masked /proc/"+p+" character special file 1:3")
	}
	// A user namespace must not see more of /sys than it did, so it sees what the host mounts there; it is root's.
	if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); strings.HasPrefix(f[1], "/sys/") {
				may = append(may, "mount "+f[1]+" "+f[2]+" ro")
			}
		}
	}
	for _, d := range devicesOfBox() { // in a user namespace they are bound
		may = append(may, "mount /dev/"+d+" devtmpfs ro", "mount /dev/"+d+" tmpfs ro", "mount /dev/"+d+" ext4 ro")
	}
	return must, may
}

func devicesOfBox() []string { return []string{"null", "zero", "full", "random", "urandom", "tty"} }

// All that is in a box is on a list, and all that has to be is there.
func TestBoxInventory(t *testing.T) {
	ns := map[string]string{}
	for _, n := range []string{"ipc", "mnt", "net", "pid", "uts", "cgroup", "user"} {
		ns[n], _ = os.Readlink("/proc/self/ns/" + n)
	}
	for _, name := range []string{"root", "rootless", "one id"} {
		t.Run(name, func(t *testing.T) {
			out, err := isolations()[name](t).run(inventory).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			must, may := allowed()
			todo, fine := map[string]bool{}, map[string]bool{}
			for _, l := range must {
				todo[l], fine[l] = true, true
			}
			for _, l := range may {
				fine[l] = true
			}
			for line := range strings.Lines(string(out)) {
				line = strings.TrimSpace(line)
				delete(todo, line)
				if n, ok := strings.CutPrefix(line, "ns "); ok {
					kind, id, _ := strings.Cut(n, " ")
					shared := kind == "net" || kind == "user" && name == "root"
					if (id == ns[kind]) != shared {
						t.Errorf("namespace %s is %s, the host's %s", kind, id, ns[kind])
					}
					continue
				}
				if !fine[line] {
					t.Errorf("the box has %q", line)
				}
			}
			for l := range todo {
				t.Errorf("the box lacks %q", l)
			}
		})
	}
}
