package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Login checks the credentials with the registry and stores them in file (docker's config.json
// format, mode 0600, other content kept) or in the credential helper that the file names. A registry that asks nobody for
// credentials takes any. user "<token>" stores password as an identity token.
func (c *Client) Login(ctx context.Context, host, user, password, file string) error {
	reg, err := parseHost(host)
	if err != nil {
		return err
	}
	if user == "" || password == "" {
		return errors.New("login: a user name and a password are needed")
	}
	if strings.Contains(user, ":") {
		return errors.New("login: a user name cannot contain a colon")
	}
	conf, err := readConfig(file)
	if err != nil {
		return err
	}
	cred := credential{AuthConfig: authn.AuthConfig{Username: user, Password: password}, source: "this login"}
	if user == "<token>" {
		cred.AuthConfig = authn.AuthConfig{IdentityToken: password}
	}
	if err := c.verify(ctx, reg, cred); err != nil {
		return err
	}
	entry := map[string]string{}
	key := configKey(reg)
	if p, ok := conf.helper(key, c.opt.Path); ok {
		if err := p.store(ctx, key, user, password); err != nil {
			return fmt.Errorf("storing the credentials of %s: %w", display(reg), err)
		}
	} else if cred.IdentityToken != "" {
		entry["auth"] = basic(credential{AuthConfig: authn.AuthConfig{Username: user}})
		entry["identitytoken"] = password
	} else {
		entry["auth"] = basic(cred)
	}
	conf.drop(key)
	if conf.auths[key], err = json.Marshal(entry); err != nil {
		return fmt.Errorf("storing the credentials of %s: %w", display(reg), err)
	}
	if err := conf.write(); err != nil {
		return fmt.Errorf("storing the credentials of %s: %w", display(reg), err)
	}
	c.forget(reg)
	return nil
}

// verify asks the registry whether it takes the credentials.
func (c *Client) verify(ctx context.Context, reg string, cred credential) error {
	h := newHost(c, reg)
	scheme, err := h.connect(ctx)
	if err != nil {
		return fmt.Errorf("login to %s: %w", display(reg), err)
	}
	header := http.Header{}
	switch h.ask.scheme {
	case "bearer":
		t, err := h.fetchToken(ctx, nil, cred, h.ask)
		if err != nil {
			return loginError(reg, err)
		}
		header.Set("Authorization", "Bearer "+t.value)
	case "basic":
		header.Set("Authorization", "Basic "+basic(cred))
	default:
		return nil
	}
	target, err := h.resolve(scheme, "/v2/")
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := h.verifyOnce(ctx, request{method: http.MethodGet, header: header}, target.String(), cred)
		if err == nil {
			return nil
		}
		if err := c.wait(ctx, try, err); err != nil {
			return loginError(reg, err)
		}
	}
}

// verifyOnce sends a request with an Authorization header of its own.
func (h *host) verifyOnce(ctx context.Context, r request, target string, cred credential) error {
	ctx, cancel := h.c.attempt(ctx)
	defer cancel()
	u, err := h.resolve(h.scheme, target)
	if err != nil {
		return err
	}
	resp, err := h.send(ctx, r, u, r.header.Get("Authorization"))
	if err != nil {
		return err
	}
	if err := h.check(resp, cred, []int{http.StatusOK}); err != nil {
		return err
	}
	drain(resp)
	return nil
}

// loginError says that the credentials are wrong when that is it.
func loginError(reg string, err error) error {
	if errors.Is(err, ErrUnauthorized) {
		return fmt.Errorf("login to %s: user name or password is wrong: %w: %w", display(reg), ErrUnauthorized, err)
	}
	return fmt.Errorf("login to %s: %w", display(reg), err)
}

// Logout removes the credentials of host from file or its credential helper. If there are none, it is ErrNotLoggedIn.
func (c *Client) Logout(host, file string) error {
	reg, err := parseHost(host)
	if err != nil {
		return err
	}
	conf, err := readConfig(file)
	if err != nil {
		return err
	}
	key := configKey(reg)
	found := conf.drop(key)
	if p, ok := conf.helper(key, c.opt.Path); ok {
		had, err := p.remove(context.Background(), key)
		if err != nil {
			return fmt.Errorf("logout from %s: %w", display(reg), err)
		}
		found = found || had
	}
	if !found {
		return fmt.Errorf("%w to %s (%s has no credentials for it)", ErrNotLoggedIn, display(reg), file)
	}
	if err := conf.write(); err != nil {
		return fmt.Errorf("logout from %s: %w", display(reg), err)
	}
	c.forget(reg)
	return nil
}

// remove erases what a helper keeps for a server and tells whether there was anything. Helpers differ in whether erasing
// nothing fails, so they are asked first.
func (p helper) remove(ctx context.Context, server string) (bool, error) {
	users, err := p.list(ctx)
	if err == nil {
		had := false
		for s := range users {
			if canonical(s) != canonical(server) {
				continue
			}
			had = true
			if err := p.erase(ctx, s); err != nil && !errors.Is(err, errNoCredentials) {
				return had, err
			}
		}
		return had, nil
	}
	if errors.Is(err, errNoHelper) {
		return false, err
	}
	if err := p.erase(ctx, server); errors.Is(err, errNoCredentials) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}

// parseHost accepts a registry as people write it: with a scheme, a slash at the end, or nothing for Docker Hub.
func parseHost(s string) (string, error) {
	s = canonical(s)
	reg, err := name.NewRegistry(s, name.WeakValidation)
	if err != nil || strings.ContainsAny(s, "/?#@ ") {
		return "", fmt.Errorf("%q is not a registry (want HOST[:PORT])", s)
	}
	return reg.RegistryStr(), nil
}

// configKey is a registry's name in a credential file.
func configKey(reg string) string { return serverURL(reg) }

// config is a credential file that is changed: everything else in it is kept as it is.
type config struct {
	path    string
	all     map[string]json.RawMessage
	auths   map[string]json.RawMessage
	helpers map[string]string
	store   string
}

// readConfig reads a credential file for a change; a missing one is empty.
func readConfig(path string) (*config, error) {
	path, err := followLinks(path)
	if err != nil {
		return nil, err
	}
	c := &config{path: path, all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	data, err := readLimited(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c, nil
	}
	f, err := parseAuthFile(path, data)
	if err != nil {
		return nil, err
	}
	var parts struct{ Auths map[string]json.RawMessage }
	if json.Unmarshal(data, &c.all) != nil || json.Unmarshal(data, &parts) != nil || c.all == nil {
		return nil, fmt.Errorf("reading credentials: %s: not a JSON object", path)
	}
	if parts.Auths != nil {
		c.auths = parts.Auths
	}
	c.helpers, c.store = f.Helpers, f.Store
	return c, nil
}

// followLinks returns the file that a symbolic link leads to, even when that does not exist yet: the file is
// replaced, never the link.
func followLinks(path string) (string, error) {
	for range 40 {
		target, err := os.Readlink(path)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			return path, nil // no link, or nothing there
		}
		if err != nil {
			return "", fmt.Errorf("reading credentials: %w", err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("reading credentials: %s: too many symbolic links", path)
}

// helper returns the credential helper that is in charge of a key.
func (c *config) helper(key, path string) (helper, bool) {
	if _, n, ok := find(c.helpers, []string{canonical(key)}); ok && n != "" {
		return helper{name: n, path: path}, true
	}
	return helper{name: c.store, path: path}, c.store != ""
}

// drop removes all spellings of a key and tells whether there was one with credentials or for a helper.
func (c *config) drop(key string) bool {
	n := len(c.auths)
	maps.DeleteFunc(c.auths, func(k string, _ json.RawMessage) bool { return canonical(k) == canonical(key) })
	return len(c.auths) < n
}

// write replaces the file atomically: mode 0600, the owner as before.
func (c *config) write() (err error) {
	auths, err := json.Marshal(c.auths)
	if err != nil {
		return fmt.Errorf("writing %s: %w", c.path, err)
	}
	// Other spellings of the member's name would compete with it: encoding/json ignores the case.
	for _, k := range slices.Collect(maps.Keys(c.all)) {
		if strings.EqualFold(k, "auths") {
			delete(c.all, k)
		}
	}
	c.all["auths"] = auths
	data, err := json.MarshalIndent(c.all, "", "\t")
	if err != nil {
		return fmt.Errorf("writing %s: %w", c.path, err)
	}
	dir := filepath.Dir(c.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(c.path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if info, serr := os.Stat(c.path); serr == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(st.Uid), int(st.Gid)) // only root can, and only for root it matters
		}
	}
	if _, err = f.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	if err = os.Rename(f.Name(), c.path); err != nil {
		return fmt.Errorf("writing credentials: %w", err)
	}
	return nil
}
