package runner

import (
	"bytes"
	"testing"
)

func TestOneID(t *testing.T) {
	run := asUser(t, false)
	for _, c := range []struct{ script, want, arg string }{
		{"id -u; echo $HOME", "0\n/\n", "host"},
		{"touch /x && chown 33:44 /x && stat -c %u:%g /x; rm /x", "33:44\n", "host"},
		{"id -u; id -g; echo $HOME", "1000\n1000\n/home/app\n", "user=app"},
		{"mkdir -p /d; ln -s x /d/l; chown -h 5:6 /d/l; stat -c %u:%g /d/l /d; cd /d; stat -c %u:%g l", "5:6\n0:0\n5:6\n", "host"},
		{"mkfifo /p; chown 7 /p; stat -c %u:%g /p; chown 0 /p; stat -c %u:%g /p", "7:0\n0:0\n", "host"},
		{"touch /m; chown 1:2 /m; chown :9 /m; stat -c %u:%g /m; chown 8 /m;  stat -c %u:%g /m; chown 0:0 /m;  stat -c %u:%g /m", "1:9\n8:9\n0:0\n", "host"},
		{"touch /s; chmod 6755 /s; chown 1 /s; stat -c %a /s", "755\n", "host"},
	} {
		var errs bytes.Buffer
		cmd := run(c.script, c.arg)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: got %q, want %q: %v\n%s", c.script, out, c.want, err, errs.String())
		}
	}
}
