package runner

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// helpServe answers in the network outside: HTTP with the caller's address, and DNS with the server's own.
func helpServe(args []string) error {
	tcp, err := net.Listen("tcp", args[0]+":8000")
	if err != nil {
		return err
	}
	abstract, err := net.Listen("unix", fmt.Sprintf("@strake-test-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer abstract.Close()
	udp, err := net.ListenPacket("udp", args[0]+":53")
	if err != nil {
		return err
	}
	dns, err := net.Listen("tcp", args[0]+":53")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			from := c.RemoteAddr().(*net.TCPAddr).IP.String()
			_, _ = c.Read(make([]byte, 4096))
			fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(from), from)
			c.Close()
		}
	}()
	go func() {
		for {
			c, err := dns.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			if n > 2 {
				a := answerDNS(buf[2:n], args[0])
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
			c.Close()
		}
	}()
	fmt.Println("ready")
	buf := make([]byte, 4096)
	for {
		n, from, err := udp.ReadFrom(buf)
		if err != nil {
			return err
		}
		_, _ = udp.WriteTo(answerDNS(buf[:n], args[0]), from)
	}
}

// answerDNS answers a query for an address with ip, and others with nothing.
func answerDNS(q []byte, ip string) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5
	a := append([]byte(nil), q[:end]...)
	a[2], a[3] = 0x81, 0x80
	copy(a[6:], []byte{0, 0, 0, 0, 0, 0})
	if binary.BigEndian.Uint16(q[end-4:]) == 1 {
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		a = append(a, net.ParseIP(ip).To4()...)
	}
	return a
}

// The addresses of the two machines of a test: this one, and a server outside.
const (
	insideIP  = "198.51.100.1"
	outsideIP = "198.51.100.2"
)

// internet is a network of two network namespaces: that of a host which runs boxes, and a server outside.
type internet struct {
	t   *testing.T
	dir string
	// Processes in the namespaces of the host and of the server.
	host, outside int
}

func newInternet(t *testing.T, resolver string) *internet {
	t.Helper()
	needRoot(t)
	for _, p := range []string{"ip", "nsenter", "unshare", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	n := &internet{t: t, dir: publicDir(t)}
	makeRoot(t, filepath.Join(n.dir, "lower"))
	n.host = n.hold()
	n.outside = n.hold()
	for _, line := range []string{
		"mount --make-rprivate /", "mount -t tmpfs none /run", "ip link set lo up",
		fmt.Sprintf("ip link add up0 type veth peer name eth0 netns /proc/%d/ns/net", n.outside),
		"ip addr add " + insideIP + "/24 dev up0", "ip link set up0 up", "ip route add default via " + outsideIP,
		"sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'",
	} {
		n.in(n.host, line)
	}
	file := filepath.Join(n.dir, "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+resolver+"\nsearch test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.in(n.host, "mount --bind "+file+" /etc/resolv.conf")
	n.in(n.outside, "ip addr add "+outsideIP+"/24 dev eth0")
	n.in(n.outside, "ip link set eth0 up")
	n.serve(n.outside, outsideIP)
	return n
}

// hold starts a process in namespaces of its own.
func (n *internet) hold() int {
	n.t.Helper()
	c := exec.Command("unshare", "-n", "-m", "sh", "-c", "echo ready; exec sleep 600")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		n.t.Fatal(err)
	}
	return c.Process.Pid
}

// serve starts the servers in the namespaces of pid.
func (n *internet) serve(pid int, ip string) {
	n.t.Helper()
	c := n.command(pid, "serve", ip)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		n.t.Fatal(err)
	}
}

// in runs a command of the shell in the namespaces of pid.
func (n *internet) in(pid int, line string) string {
	n.t.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-n", "-m", "sh", "-c", line).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// command is a helper in the namespaces of pid.
func (n *internet) command(pid int, name string, args ...string) *exec.Cmd {
	n.t.Helper()
	c := helperCommand(n.t, n.dir, name, args...)
	c.Args = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n", "-m", c.Path}, c.Args[1:]...)
	path, err := exec.LookPath("nsenter")
	if err != nil {
		n.t.Fatal(err)
	}
	c.Path = path
	return c
}

// box runs a script in a box on the host, with a private network.
func (n *internet) box(script string, args ...string) *exec.Cmd {
	n.t.Helper()
	return n.command(n.host, "run", append([]string{n.dir, script, "bridge"}, args...)...)
}

func (n *internet) must(script string) string {
	n.t.Helper()
	out, err := n.box(script).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// clean checks that the host is as it was.
func (n *internet) clean() {
	n.t.Helper()
	if out := n.in(n.host, "ip -o link | grep -v -e ' lo:' -e up0 || true; nft list ruleset; cat /proc/sys/net/ipv4/conf/up0/forwarding; cat /run/strake/network-* /dev/null"); out != "0\n" {
		n.t.Errorf("left behind: %s", out)
	}
}

func TestBridge(t *testing.T) {
	n := newInternet(t, outsideIP)
	out := n.must("wget -q -O - http://" + outsideIP + ":8000/; echo; nslookup -type=a web.test | grep Addr | tail -1; cat /etc/resolv.conf /etc/hosts; ping -c 1 -w 60 " + outsideIP + " > /dev/null && echo ping")
	want := insideIP + "\nAddress: " + outsideIP + "\nnameserver " + outsideIP + "\nsearch test\n" +
		"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.213.0.2\tboxtest\nping\n"
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	n.clean()
	if err := n.box("exit 3").Run(); err == nil {
		t.Error("no error")
	}
	n.clean()
}

// Docker has iptables drop what it does not know.
func TestBridgeBehindFirewall(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n := newInternet(t, outsideIP)
	n.in(n.host, "iptables -P FORWARD DROP") // of this namespace
	before := n.in(n.host, "nft list ruleset")
	if out := n.must("echo | nc -w 60 " + outsideIP + " 8000 | tail -n 1"); out != insideIP {
		t.Errorf("got %q", out)
	}
	if after := n.in(n.host, "nft list ruleset"); after != before {
		t.Errorf("left behind: %s, before: %s", after, before)
	}
}

// Only a resolver on the host's loopback: strake asks it for the box.
func TestBridgeForwardsDNS(t *testing.T) {
	n := newInternet(t, "127.0.0.53")
	n.serve(n.host, "127.0.0.53")
	out := n.must("nslookup -type=a web.test | grep Addr | tail -1; cat /etc/resolv.conf; echo | nc -w 1 127.0.0.53 8000 2>/dev/null || echo none")
	if want := "Address: 127.0.0.53\nnameserver 127.0.0.11\nsearch test\nnone\n"; out != want {
		t.Errorf("got %q", out)
	}
	n.clean()
}

// start starts a box and waits until its script writes something.
func (n *internet) start(script string) *exec.Cmd {
	n.t.Helper()
	c := n.box(script)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	buf := make([]byte, 6)
	if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "ready\n" {
		n.t.Fatalf("%q, %v", buf, err)
	}
	return c
}

// Two processes share the bridge; their boxes have different addresses and cannot talk to each other.
func TestBridgeShared(t *testing.T) {
	n := newInternet(t, outsideIP)
	n.in(n.host, "ip route add 10.213.0.0/24 via "+outsideIP) // taken
	first := n.start("(while :; do echo hi | nc -l -p 9; done) & echo ready; sleep 321.5" + own())
	out := n.must("ip -4 addr show eth0 | grep -o 'inet [0-9./]*'; echo x | nc -w 1 10.213.1.2 9 2>/dev/null; ping -c 1 -W 1 10.213.1.2 > /dev/null || echo none; wget -q -O - http://" + outsideIP + ":8000/")
	if out != "inet 10.213.1.3/24\nnone\n"+insideIP {
		t.Errorf("got %q", out)
	}
	// The other box still has its network.
	if out := n.in(n.host, "ip -o link | grep -o -e strake0: -e strk[0-9]*"); out != "strake0:\nstrk2\n" {
		t.Errorf("got %q", out)
	}
	_ = first.Process.Signal(syscall.SIGKILL)
	_ = first.Wait()
	gone(t, "321.5")
	// The next box clears up.
	if out := n.must("ip -4 addr show eth0 | grep -o 'inet [0-9./]*'"); !strings.HasPrefix(out, "inet 10.213.1.") {
		t.Errorf("got %q", out)
	}
	n.clean()
	second := n.start("echo ready; sleep 321.6" + own())
	_ = second.Process.Signal(syscall.SIGKILL)
	_ = second.Wait()
	gone(t, "321.6")
	// So does one without a private network.
	if out, err := n.command(n.host, "run", n.dir, "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n.clean()
}

// cancelled runs boxes that are cancelled at moments of their making, and when they run.
func cancelled(t *testing.T, box func(script string, args ...string) *exec.Cmd, check func()) {
	t.Helper()
	for _, after := range []string{"1ms", "5ms", "10ms", "20ms", "40ms", "80ms", "500ms"} {
		out, err := box("sleep 324.5"+own(), "cancel="+after).CombinedOutput()
		if err == nil || !strings.Contains(string(out), context.DeadlineExceeded.Error()) {
			t.Errorf("cancelled after %s: %v: %s", after, err, out)
		}
		gone(t, "324.5")
		check()
	}
}

// A box that is cancelled, whenever that is, leaves nothing on the host.
func TestBridgeCancelled(t *testing.T) {
	n := newInternet(t, outsideIP)
	n.must("true") // makes the file that clean looks at
	cancelled(t, n.box, n.clean)
}

// A box sees nothing of the host's abstract sockets, nor does it configure the host; nobody outside gets in.
func TestBridgeIsolated(t *testing.T) {
	n := newInternet(t, outsideIP)
	n.serve(n.host, insideIP) // has an abstract socket
	n.in(n.outside, "ip route add 10.213.0.0/24 via "+insideIP)
	const listening = "until busybox nc -w 60 10.213.0.2 9 2>/dev/null; do sleep 0.01; done"
	c := n.start("grep -q @strake-test /proc/net/unix && echo abstract || echo ready; (while :; do nc -l -p 9 -e /bin/echo in; done) & sleep 322.5" + own())
	for _, c := range []struct {
		pid        int
		line, want string
	}{
		{n.host, "cat /proc/sys/net/ipv6/conf/strake0/disable_ipv6 /proc/sys/net/ipv4/conf/strake0/rp_filter", "1\n1\n"},
		{n.host, "grep -c @strake-test /proc/net/unix", "1\n"},
		{n.host, listening, "in\n"},
		{n.outside, "busybox nc -w 1 10.213.0.2 9 2>/dev/null || echo none", "none\n"},
		{n.host, listening, "in\n"},
	} {
		if out := n.in(c.pid, c.line); out != c.want {
			t.Errorf("%s: got %q, want %q", c.line, out, c.want)
		}
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	_ = c.Wait()
	gone(t, "322.5")
}

// In user mode a program carries the packets. As root asked for rootless, to whom /dev/net/tun belongs.
func TestRootlessBridge(t *testing.T) {
	n := newInternet(t, outsideIP)
	for _, program := range []string{"slirp4netns", "pasta"} {
		t.Run(program, func(t *testing.T) {
			path, err := exec.LookPath(program)
			if err != nil {
				if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			bin := t.TempDir()
			if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
				t.Fatal(err)
			}
			box := func(script string, args ...string) *exec.Cmd {
				c := n.command(n.host, "rootless", append([]string{n.dir, script, "bridge"}, args...)...)
				c.Env = append(c.Env, "PATH="+bin)
				return c
			}
			out, err := box("wget -q -O - http://" + outsideIP + ":8000/; echo; nslookup -type=a web.test | grep Addr | tail -1; cat /etc/resolv.conf; tail -1 /etc/hosts; echo | nc -w 1 10.0.2.2 8000 2>/dev/null || echo none").CombinedOutput()
			want := insideIP + "\nAddress: " + outsideIP + "\nnameserver 10.0.2.3\nsearch test\n10.0.2.100\tboxtest\nnone\n"
			if err != nil || string(out) != want {
				t.Errorf("got %q, want %q: %v", out, want, err)
			}
			c := box("echo ready; sleep 323.5" + own())
			pipe, err := c.StdoutPipe()
			if err == nil {
				err = c.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(pipe, make([]byte, 6)); err != nil {
				t.Error(err)
			}
			_ = c.Process.Kill()
			_ = c.Wait()
			gone(t, "323.5")
			noProcess(t, "/proc/self/fd/3")
			cancelled(t, box, func() { noProcess(t, "/proc/self/fd/3") })
		})
	}
}
