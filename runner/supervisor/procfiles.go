package supervisor

// kernelFiles are the files of /proc that tell something about the machine and that steps are known to read. They are handed out
// for reading; none is a way to anything else.
func kernelFiles() []string {
	files := []string{"cpuinfo", "meminfo", "stat", "uptime", "loadavg", "version", "filesystems", "swaps", "vmstat", "net/dev", "net/if_inet6"}
	for _, f := range []string{
		"kernel/osrelease", "kernel/ostype", "kernel/version", "kernel/pid_max", "kernel/ngroups_max", "kernel/cap_last_cap",
		"kernel/overflowuid", "kernel/overflowgid", "kernel/threads-max", "kernel/shmmax", "kernel/shmall", "kernel/random/boot_id", "kernel/random/uuid",
		"kernel/random/entropy_avail",
		"vm/overcommit_memory", "vm/max_map_count", "vm/swappiness", "vm/min_free_kbytes", "fs/file-max", "fs/nr_open", "net/core/somaxconn",
		"net/ipv4/ip_local_port_range", "net/ipv6/conf/all/disable_ipv6",
	} {
		files = append(files, "sys/"+f)
	}
	return files
}

// sysFiles are those of /sys.
func sysFiles() []string {
	return []string{
		"devices/system/cpu/online", "devices/system/cpu/possible", "devices/system/cpu/present",
		"kernel/mm/transparent_hugepage/enabled", "kernel/mm/transparent_hugepage/hpage_pmd_size",
	}
}
