package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// dockerHubKey is Docker Hub's name in credential files and helpers.
const dockerHubKey = "https://index.docker.io/v1/"

// maxAuthFile bounds what is read of a credential file.
const maxAuthFile = 16 << 20

// authFile is the part of docker's config.json and containers-auth.json(5) that is about credentials.
type authFile struct {
	source  string // where it was read
	Auths   map[string]authEntry
	Helpers map[string]string `json:"credHelpers"`
	Store   string            `json:"credsStore"`
}

// authEntry is a registry's or a namespace's credentials.
type authEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// keychain finds the credentials for a repository. It remembers what it found, since helpers are slow.
type keychain struct {
	opt Options

	mu    sync.Mutex
	read  bool
	files []authFile
	found map[string]credential
	notes map[string]string // by host: why there may be credentials that were not found
}

// newKeychain makes a keychain without reading a file.
func newKeychain(opt Options) *keychain {
	return &keychain{opt: opt, found: map[string]credential{}, notes: map[string]string{}}
}

// reset forgets everything, so that files and helpers are asked again.
func (k *keychain) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read, k.files = false, nil
	k.found, k.notes = map[string]credential{}, map[string]string{}
}

// note tells what went wrong quietly while credentials for a host were sought.
func (k *keychain) note(host string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.notes[host]
}

// lookup returns the credentials for a repository ("" is the registry itself), empty ones when there are none: the
// first source that has a match wins, and in it the most specific match.
func (k *keychain) lookup(ctx context.Context, host, repo string) (credential, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := host + "/" + repo
	if cred, ok := k.found[key]; ok {
		return cred, nil
	}
	if err := k.load(); err != nil {
		return credential{}, &finalError{err}
	}
	for i := range k.files {
		cred, err := k.ask(ctx, &k.files[i], host, repo)
		if err != nil {
			return credential{}, &finalError{err}
		}
		if !cred.anonymous() {
			k.found[key] = cred
			return cred, nil
		}
	}
	k.found[key] = credential{}
	return credential{}, nil
}

// load reads the sources in their order.
func (k *keychain) load() error {
	if k.read {
		return nil
	}
	var files []authFile
	if k.opt.AuthFile != "" {
		f, err := readAuthFile(k.opt.AuthFile)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if len(bytes.TrimSpace(k.opt.AuthJSON)) > 0 {
		f, err := parseAuthFile("$DOCKER_AUTH_CONFIG", k.opt.AuthJSON)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	for _, path := range k.opt.AuthFiles {
		f, err := readAuthFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	k.files, k.read = files, true
	return nil
}

// readAuthFile reads a credential file.
func readAuthFile(path string) (authFile, error) {
	data, err := readLimited(path)
	if err != nil {
		return authFile{}, fmt.Errorf("reading credentials: %w", err)
	}
	return parseAuthFile(path, data)
}

// readLimited reads a file that must not be huge.
func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxAuthFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxAuthFile)
	}
	return os.ReadFile(path)
}

// parseAuthFile reads the content of a credential file; an empty one is fine.
func parseAuthFile(source string, data []byte) (authFile, error) {
	f := authFile{source: source}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return authFile{}, fmt.Errorf("reading credentials: %s: %w", source, jsonError(err))
	}
	return f, nil
}

// jsonError tells where JSON is broken, without quoting any of it.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("broken JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("broken JSON at byte %d: %s is of the wrong type", kind.Offset, kind.Field)
	}
	return errors.New("broken JSON")
}

// ask looks into one source: the helper of the most specific name, then the helper for everything, then the entries.
func (k *keychain) ask(ctx context.Context, f *authFile, host, repo string) (credential, error) {
	names := candidates(host, repo)
	if key, helper, ok := find(f.Helpers, names); ok && helper != "" {
		cred, err := k.helper(helper).get(ctx, serverURL(key))
		if err != nil {
			return credential{}, fmt.Errorf("credentials of %s, as %s says: %w", display(host), f.source, err)
		}
		if !cred.anonymous() {
			return cred, nil
		}
	}
	if f.Store != "" {
		cred, err := k.helper(f.Store).get(ctx, serverURL(host))
		if err != nil {
			// A store that is meant for everything, but absent or ill, must not stop what needs no credentials.
			k.notes[host] = fmt.Sprintf("credentials could not be looked up as %s says: %v", f.source, err)
		} else if !cred.anonymous() {
			return cred, nil
		}
	}
	key, entry, ok := find(f.Auths, names)
	if !ok {
		return credential{}, nil
	}
	cred, err := entry.credential()
	if err != nil {
		return credential{}, fmt.Errorf("reading credentials: %s: entry %q: %w", f.source, key, err)
	}
	cred.source = f.source
	return cred, nil
}

// helper returns the credential helper of a name.
func (k *keychain) helper(name string) helper { return helper{name: name, path: k.opt.Path} }

// credential decodes an entry.
func (e authEntry) credential() (credential, error) {
	c := credential{AuthConfig: authn.AuthConfig{
		Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}}
	if e.Auth == "" {
		return c, nil
	}
	raw, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(e.Auth, "="))
	}
	if err != nil {
		return credential{}, errors.New("auth is not base64")
	}
	user, password, ok := strings.Cut(string(raw), ":")
	if !ok || user == "" {
		return credential{}, errors.New("auth is not the base64 of USER:PASSWORD")
	}
	c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// candidates lists the names under which a repository's credentials may be kept, the most specific first:
// registry/namespace/repository, its prefixes, and the registry (containers-auth.json(5)).
func candidates(host, repo string) []string {
	var names []string
	for path := repo; path != ""; {
		names = append(names, host+"/"+path)
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return append(names, host)
}

// find returns the entry of the most specific name.
func find[V any](m map[string]V, names []string) (string, V, bool) {
	for _, n := range names {
		best := ""
		for key := range m {
			if canonical(key) == n && (best == "" || key == n || best != n && key < best) {
				best = key // several spellings of one name: the plain one, else the first in order
			}
		}
		if best != "" {
			return best, m[best], true
		}
	}
	var none V
	return "", none, false
}

// canonical is the name that a key of a credential file stands for: without a scheme, the API's version and
// slashes at the end, and with one name for Docker Hub.
func canonical(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimRight(key, "/")
	for _, version := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, version)
	}
	host, rest, deeper := strings.Cut(key, "/")
	switch host {
	case "docker.io", "registry-1.docker.io", "www.docker.io":
		host = name.DefaultRegistry
	}
	if deeper {
		return host + "/" + rest
	}
	return host
}

// serverURL is what a helper is asked for.
func serverURL(key string) string {
	if canonical(key) == name.DefaultRegistry {
		return dockerHubKey
	}
	return key
}
