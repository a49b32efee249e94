package registry

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// file writes a file in a new folder.
func file(t *testing.T, base, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), base)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// lookup asks a keychain and returns "user:password" or "<token>:identity".
func lookup(t *testing.T, opt Options, repo string) string {
	t.Helper()
	r := repository(t, repo)
	cred, err := newKeychain(opt).lookup(t.Context(), r.RegistryStr(), r.RepositoryStr())
	if err != nil {
		t.Fatal(err)
	}
	if cred.IdentityToken != "" {
		return "<token>:" + cred.IdentityToken
	}
	return cred.Username + ":" + cred.Password
}

func TestKeychain(t *testing.T) {
	one := file(t, "one.json", `{"auths":{
		"a.example": {"auth":"`+b64("host:1")+`"},
		"a.example/ns": {"auth":"`+b64("namespace:1")+`"},
		"a.example/ns/repo": {"auth":"`+b64("repo:1:with:colons")+`"},
		"https://b.example/v1/": {"username":"b","password":"pw"},
		"https://index.docker.io/v1/": {"auth":"`+b64("hub:1\x00\x00")+`"},
		"empty.example": {},
		"identity.example": {"auth":"`+b64("<token>:")+`","identitytoken":"id"},
		"unpadded.example": {"auth":"`+strings.TrimRight(b64("u:p"), "=")+`"},
		"broken.example": {"auth":"%%%"}
	},"unknown":[1,2]}`, 0o600)
	two := file(t, "two.json", `{"auths":{"a.example":{"auth":"`+b64("second:2")+`"},"empty.example":{"auth":"`+b64("second:2")+`"},"docker.io":{"auth":"`+b64("podman:2")+`"}}}`, 0o600)
	none := file(t, "none.json", "\n", 0o600)
	files := Options{AuthFiles: []string{filepath.Join(t.TempDir(), "missing"), none, one, two}}
	inline := files
	inline.AuthJSON = []byte(`{"auths":{"a.example":{"auth":"` + b64("inline:3") + `"}}}`)
	explicit := inline
	explicit.AuthFile = two
	for _, tt := range []struct {
		opt        Options
		repo, want string
	}{
		{files, "a.example/x", "host:1"},
		{files, "a.example/ns/other/deep", "namespace:1"},
		{files, "a.example/nsx/repo", "host:1"},
		{files, "a.example/ns/repo", "repo:1:with:colons"},
		{files, "a.example:5000/x", ":"},
		{files, "b.example/x", "b:pw"},
		{files, "busybox", "hub:1"},
		{Options{AuthFiles: []string{two}}, "busybox", "podman:2"},
		{files, "empty.example/x", "second:2"},
		{files, "identity.example/x", "<token>:id"},
		{files, "unpadded.example/x", "u:p"},
		{files, "none.example/x", ":"},
		{inline, "a.example/ns/repo", "inline:3"},
		{explicit, "a.example/x", "second:2"},
		{explicit, "b.example/x", "b:pw"},
		{Options{}, "a.example/x", ":"},
	} {
		if got := lookup(t, tt.opt, tt.repo); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.repo, got, tt.want)
		}
	}
	_, err := newKeychain(files).lookup(t.Context(), "broken.example", "x")
	wantError(t, err, one, `"broken.example"`, "base64")
}

func TestKeychainBrokenFile(t *testing.T) {
	for _, content := range []string{`{"auths":{"a.example":{"auth":"hunter2"`, `{"auths":{"a.example":{"password":["hunter2"]}}}`, `[]`, `{"auths":"hunter2"}`} {
		path := file(t, "broken.json", content, 0o600)
		_, err := newKeychain(Options{AuthFiles: []string{path}}).lookup(t.Context(), "b.example", "x")
		wantError(t, err, path, "broken JSON")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error quotes the file: %v", err)
		}
	}
	_, err := newKeychain(Options{AuthJSON: []byte("{")}).lookup(t.Context(), "b.example", "x")
	wantError(t, err, "$DOCKER_AUTH_CONFIG")
	_, err = newKeychain(Options{AuthFile: "/does/not/exist"}).lookup(t.Context(), "b.example", "x")
	wantError(t, err, "/does/not/exist")
}

// helperScript is a credential helper that keeps its secrets in files beside it.
const helperScript = `#!/bin/sh
dir=$(dirname "$0")
read -r line
name=$(printf %s "$line" | tr -c 'a-zA-Z0-9.' _)
case $1 in
get)
	echo get "$line" >> "$dir/log"
	if [ "$line" = ill.example ]; then echo "the keyring is locked"; exit 1; fi
	if [ "$line" = talkative.example ]; then echo "hunter2 is no JSON"; exit 0; fi
	if [ -f "$dir/$name" ]; then cat "$dir/$name"; else echo "credentials not found in native keychain"; exit 1; fi ;;
store)
	server=$(printf %s "$line" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')
	case $line in *refuse-this*) echo "will not keep $line" >&2; exit 1;; esac
	printf %s "$line" > "$dir/$(printf %s "$server" | tr -c 'a-zA-Z0-9.' _)" 
	printf %s "$server" > "$dir/servers" ;;
erase) rm "$dir/$name" "$dir/servers" ;;
list) if [ -f "$dir/servers" ]; then printf '{"%s":"u"}' "$(cat "$dir/servers")"; else echo '{}'; fi ;;
esac
`

// withHelper installs the helper as docker-credential-NAME and returns a PATH.
func withHelper(t *testing.T, name string) string {
	t.Helper()
	return filepath.Dir(file(t, "docker-credential-"+name, helperScript, 0o700)) + ":/usr/bin:/bin"
}

func TestHelpers(t *testing.T) {
	path := withHelper(t, "test")
	dir, _, _ := strings.Cut(path, ":")
	keep := func(server, content string) {
		if err := os.WriteFile(filepath.Join(dir, server), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep("123.dkr.ecr.us_east_1.amazonaws.com", `{"ServerURL":"x","Username":"AWS","Secret":"ecr-secret"}`)
	keep("https___index.docker.io_v1_", `{"Username":"hub","Secret":"s"}`)
	keep("acr.example", `{"Username":"<token>","Secret":"refresh"}`)
	conf := file(t, "config.json", `{"credHelpers":{"123.dkr.ecr.us-east-1.amazonaws.com":"test","ill.example":"test","talkative.example":"test","gone.example":"gone","odd.example":"../odd"},
		"credsStore":"test","auths":{"file.example":{"auth":"`+b64("file:f")+`"},"acr.example":{}}}`, 0o600)
	opt := Options{AuthFiles: []string{conf}, Path: path}
	for repo, want := range map[string]string{
		"123.dkr.ecr.us-east-1.amazonaws.com/x": "AWS:ecr-secret", "busybox": "hub:s", "acr.example/x": "<token>:refresh", "file.example/x": "file:f", "none.example/x": ":",
	} {
		if got := lookup(t, opt, repo); got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
	for host, want := range map[string]string{
		"ill.example": "the keyring is locked", "talkative.example": "not JSON", "gone.example": "docker-credential-gone: not found in PATH", "odd.example": "not a name",
	} {
		_, err := newKeychain(opt).lookup(t.Context(), host, "x")
		wantError(t, err, want, conf, host)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	// A store that is not installed must not stop what needs no credentials.
	conf = file(t, "config.json", `{"credsStore":"desktop","auths":{"file.example":{"auth":"`+b64("file:f")+`"}}}`, 0o600)
	k := newKeychain(Options{AuthFiles: []string{conf}, Path: path})
	if cred, err := k.lookup(t.Context(), "none.example", "x"); err != nil || !cred.anonymous() {
		t.Errorf("%v", err)
	}
	if note := k.note("none.example"); !strings.Contains(note, "docker-credential-desktop") {
		t.Errorf("note %q", note)
	}
	// Helpers are slow: each is asked once.
	k = newKeychain(opt)
	_ = os.Remove(filepath.Join(dir, "log"))
	for range 3 {
		if _, err := k.lookup(t.Context(), "acr.example", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if log, _ := os.ReadFile(filepath.Join(dir, "log")); strings.Count(string(log), "\n") != 1 {
		t.Errorf("helper calls: %q", log)
	}
}

func TestLoginHelper(t *testing.T) {
	host := fake(t, status(200))
	path := withHelper(t, "test")
	conf := file(t, "config.json", `{"credsStore":"test","keep":{"me":1}}`, 0o600)
	c := client(t, Options{AuthFiles: []string{conf}, Path: path})
	if err := c.Login(t.Context(), host, "u", "se'cret\"", conf); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(conf); strings.Contains(string(data), b64("u:se'cret\"")) || !strings.Contains(string(data), host) {
		t.Errorf("config: %s", data)
	}
	if got := lookup(t, Options{AuthFiles: []string{conf}, Path: path}, host+"/x"); got != "u:se'cret\"" {
		t.Errorf("stored %q", got)
	}
	if err := c.Logout(host, conf); err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, Options{AuthFiles: []string{conf}, Path: path}, host+"/x"); got != ":" {
		t.Errorf("after logout: %q", got)
	}
	wantError(t, c.Logout(host, conf), "not logged in")
	err := c.Login(t.Context(), host, "u", "refuse-this", conf)
	wantError(t, err, "docker-credential-test store", "will not keep")
	if strings.Contains(err.Error(), "refuse-this") {
		t.Errorf("the error tells the secret: %v", err)
	}
}

func TestLoginFile(t *testing.T) {
	host := fake(t, status(200))
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real", "config.json"), filepath.Join(dir, "config.json")
	if err := os.Symlink("real/config.json", link); err != nil {
		t.Fatal(err)
	}
	c := client(t, Options{})
	if err := c.Login(t.Context(), host, "u", "p", link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, []byte(`{"big":12345678901234567890,"Auths":{"https://`+host+`/v1/":{"auth":"b2xkOm9sZA=="},"other.example":{"auth":"eDp5","email":"e"}},"psFormat":"x"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), host, "u", "p:q", link); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	data, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if string(got["big"]) != "12345678901234567890" || string(got["psFormat"]) != `"x"` || len(got) != 3 || !strings.Contains(string(data), `"email": "e"`) {
		t.Errorf("config: %s", data)
	}
	if got := lookup(t, Options{AuthFiles: []string{link}}, host+"/x"); got != "u:p:q" {
		t.Errorf("stored %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "real", "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	if err := c.Logout("https://"+host, link); err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, Options{AuthFiles: []string{link}}, host+"/x"); got != ":" {
		t.Errorf("after logout: %q", got)
	}

	broken := file(t, "config.json", "{", 0o600)
	wantError(t, c.Login(t.Context(), host, "u", "p", broken), broken, "broken JSON")
	wantError(t, c.Login(t.Context(), "a/b", "u", "p", link), "not a registry")
	wantError(t, c.Login(t.Context(), host, "", "p", link), "user name")
	wantError(t, c.Login(t.Context(), host, "a:b", "p", link), "colon")
	wantError(t, c.Logout("none.example", filepath.Join(dir, "missing")), "not logged in")
}

func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"a/b/c":{"identitytoken":"x"}},"credHelpers":{"a":"b"}}`), "a", "b/c")
	f.Fuzz(func(t *testing.T, data []byte, host, repo string) {
		k := newKeychain(Options{AuthJSON: data})
		cred, err := k.lookup(t.Context(), host, repo)
		if err == nil {
			_ = cred.secrets()
		}
	})
}
