package layer

import (
	"archive/tar"
	"bytes"
	"io"
	"math"
	"strings"
	"testing"
)

// FuzzHeader checks that archive/tar reads every header as it was meant.
func FuzzHeader(f *testing.F) {
	f.Add("name", "", uint32(0o644), uint32(0), uint32(0), int64(0), int64(1600000000), "a", "v")
	f.Add(strings.Repeat("d/", 60)+"x", strings.Repeat("l", 101), uint32(0o7777), uint32(math.MaxUint32-1), uint32(1<<21), int64(1<<33), int64(-1), "=", "")
	f.Add(strings.Repeat("d", 155)+"/"+strings.Repeat("x", 100), "ü", uint32(0), uint32(1<<21-1), uint32(1), int64(1<<33-1), int64(1<<33), "user.x", "\n\x00")
	f.Add(strings.Repeat("d", 156)+"/x", "", uint32(0), uint32(0), uint32(1), int64(1), int64(1<<33-1), "x", "y")
	f.Add(strings.Repeat("é", 50), "", uint32(0), uint32(0), uint32(1), int64(1), int64(1), "x", strings.Repeat("y", 985))
	f.Fuzz(func(t *testing.T, name, link string, mode, uid, gid uint32, size, mtime int64, key, value string) {
		name, link = strings.Trim(name, "/"), strings.ReplaceAll(link, "\x00", "")
		if name == "" || strings.Contains(name, "\x00") || strings.Contains(name, "//") || size < 0 || key == "" || strings.Contains(key, "\x00") || len(name)+len(link) > 100000 {
			t.Skip()
		}
		typ := byte('0')
		if link != "" {
			typ, size = '2', 0
		}
		h := header{name: name, link: link, typ: typ, mode: mode & 0o7777, uid: uid, gid: gid, size: size, mtime: mtime, xattrs: []xattr{{"user." + key, []byte(value)}}}
		b, err := h.append(nil)
		if err != nil {
			return
		}
		if len(b)%blockSize != 0 {
			t.Fatalf("%d bytes are not whole blocks", len(b))
		}
		// Go writes seconds into a field of 64 bits of nanoseconds in places: stay where it is exact.
		if mtime < -1<<40 || mtime > 1<<40 {
			t.Skip()
		}
		got, err := tar.NewReader(io.MultiReader(bytes.NewReader(b), bytes.NewReader(make([]byte, 1024)))).Next()
		if err != nil {
			t.Fatalf("%v: %+v", err, h)
		}
		if got.Name != name || got.Linkname != link || got.Mode != int64(mode&0o7777) || uint32(got.Uid) != uid || uint32(got.Gid) != gid ||
			got.Size != size || got.ModTime.Unix() != mtime || got.Typeflag != typ || got.PAXRecords["SCHILY.xattr.user."+key] != value {
			t.Fatalf("wrote %+v\nread  %+v", h, got)
		}
	})
}

func TestSplitName(t *testing.T) {
	for _, c := range []struct {
		name string
		want [2]string
		ok   bool
	}{
		{"a/b", [2]string{"", "a/b"}, true},
		{strings.Repeat("x", 100), [2]string{"", strings.Repeat("x", 100)}, true},
		{strings.Repeat("x", 101), [2]string{"", strings.Repeat("x", 100)}, false},
		{strings.Repeat("x", 155) + "/" + strings.Repeat("y", 100), [2]string{strings.Repeat("x", 155), strings.Repeat("y", 100)}, true},
		{strings.Repeat("x", 156) + "/y", [2]string{"", strings.Repeat("x", 100)}, false},
		{strings.Repeat("x", 90) + "/" + strings.Repeat("y", 20) + "/", [2]string{strings.Repeat("x", 90), strings.Repeat("y", 20) + "/"}, true},
		{strings.Repeat("x", 110) + "/", [2]string{"", strings.Repeat("x", 100)}, false},
	} {
		prefix, name, ok := splitName(c.name)
		if got := [2]string{prefix, name}; got != c.want || ok != c.ok {
			t.Errorf("%.20s… (%d): %q, %v", c.name, len(c.name), got, ok)
		}
	}
}

func TestPlainCapability(t *testing.T) {
	v2 := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	v3 := "\x01\x00\x00\x03" + v2[4:]
	for in, want := range map[string]string{v2: v2, v3 + "\x00\x00\x00\x00": v2, v3 + "\x01\x00\x00\x00": v3 + "\x01\x00\x00\x00", "": ""} {
		if got := string(plainCapability([]byte(in))); got != want {
			t.Errorf("%x: got %x, want %x", in, got, want)
		}
	}
}
