package main

import (
	"bytes"
	"testing"
	"time"
)

func TestHumanDuration(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{0, "Less than a second"},
		{time.Second, "1 second"},
		{47 * time.Second, "47 seconds"},
		{90 * time.Second, "About a minute"},
		{3 * time.Minute, "3 minutes"},
		{61 * time.Minute, "About an hour"},
		{2 * time.Hour, "2 hours"},
		{47 * time.Hour, "47 hours"},
		{3 * 24 * time.Hour, "3 days"},
		{15 * 24 * time.Hour, "2 weeks"},
		{70 * 24 * time.Hour, "2 months"},
		{3 * 365 * 24 * time.Hour, "3 years"},
	} {
		if got := humanDuration(c.d); got != c.want {
			t.Errorf("humanDuration(%v) = %q, want %q", c.d, got, c.want)
		}
	}
	if got := ago(time.Unix(100, 0), time.Time{}); got != "N/A" {
		t.Errorf("ago of no time = %q", got)
	}
}

func TestWriteFormatted(t *testing.T) {
	v := struct {
		Name string
		List []string
	}{"a<b", []string{"x", "y"}}
	for format, want := range map[string]string{
		"json":                 "{\"Name\":\"a<b\",\"List\":[\"x\",\"y\"]}\n",
		"{{.Name}}":            "a<b\n",
		"{{json .List}}":       "[\"x\",\"y\"]\n",
		`{{join .List "-"}}`:   "x-y\n",
		"{{index .List 1}}":    "y\n",
		"{{upper .Name}}":      "A<B\n",
		"{{len .List}} things": "2 things\n",
	} {
		var b bytes.Buffer
		if err := writeFormatted(&b, format, v); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v; want %q", format, b.String(), err, want)
		}
	}
	var b bytes.Buffer
	if err := writeFormatted(&b, "{{.Nope}}", v); err == nil || b.Len() > 0 {
		t.Errorf("an unknown field gives %q, %v", b.String(), err)
	}
}

func TestSplitName(t *testing.T) {
	for in, want := range map[string][3]string{
		"busybox:1":             {"busybox", "1", ""},
		"localhost:5000/a":      {"localhost:5000/a", "", ""},
		"localhost:5000/a:b":    {"localhost:5000/a", "b", ""},
		"localhost:5000/a@x:yz": {"localhost:5000/a", "", "x:yz"},
	} {
		repo, tag, digest := splitName(in)
		if got := [3]string{repo, tag, digest}; got != want {
			t.Errorf("splitName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	env := &environment{lookup: func(string) (string, bool) { return "", false }}
	for in, want := range map[string][2]string{
		"busybox":            {"docker.io/library/busybox:latest", "busybox:latest"},
		"me/app:1":           {"docker.io/me/app:1", "me/app:1"},
		"localhost:5000/a:1": {"localhost:5000/a:1", "localhost:5000/a:1"},
		"example.org/a":      {"example.org/a:latest", "example.org/a:latest"},
	} {
		ref, err := env.registry().ParseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{canonicalName(ref), familiarName(ref)}; got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestEllipsis(t *testing.T) {
	if got := ellipsis("größer", 4); got != "grö…" {
		t.Errorf("got %q", got)
	}
	if got := ellipsis("kurz", 4); got != "kurz" {
		t.Errorf("got %q", got)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"tag", "tag", 0}, {"tagg", "tag", 1}, {"tga", "tag", 2}, {"", "abc", 3}, {"kitten", "sitting", 3}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
