package sandbox

// Capabilities is Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write and setfcap.
const Capabilities uint64 = 0x00000000a80425fb

const insnSize = 8 // bytes of a struct sock_filter
