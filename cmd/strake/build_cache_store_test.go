package main

import (
	"maps"
	"strings"
	"testing"
)

func TestParseProfile(t *testing.T) {
	const text = `# comment
[default]
region = eu-1
aws_access_key_id=A

s3 =
  endpoint_url = nested
[ profile  ci ]
region=us-1
endpoint_url = https://x/?a=b
; comment
[ci2]
region=no
`
	for section, want := range map[string]map[string]string{
		"default":    {"region": "eu-1", "aws_access_key_id": "A", "s3": ""},
		"profile ci": {"region": "us-1", "endpoint_url": "https://x/?a=b"},
		"none":       {},
	} {
		got := map[string]string{}
		parseProfile(got, text, section)
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v", section, got)
		}
	}
}

func FuzzShownCache(f *testing.F) {
	for _, s := range []string{"type=s3,secret_access_key=%", "type=http,url=https://u:%@h/p", "type=gha,\"token=%\"", "TYPE=s3, Session_Token =%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		shownCache(text) // does not panic
	})
}

func TestShownCache(t *testing.T) {
	for _, s := range []string{
		"type=s3,secret_access_key=hunter2", "type=http,url=https://u:hunter2@h/p", `type=gha,"token=hunter2"`, "type=s3, Session_Token =hunter2,x=y",
		"type=http,url=https://u:hunter2@%zz/",
	} {
		got := shownCache(s)
		if strings.Contains(got, "hunter2") || !strings.HasPrefix(got, "type=") {
			t.Errorf("%s is shown as %s", s, got)
		}
	}
	if got := shownCache("example.org/app:1"); got != "example.org/app:1" {
		t.Errorf("got %s", got)
	}
}
