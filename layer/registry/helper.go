package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// helperTime is how long a credential helper may take; some ask a person or a cloud.
const helperTime = 90 * time.Second

// errNoHelper tells that a helper's program is not there.
var errNoHelper = errors.New("not found in PATH")

// errNoCredentials is a helper's way to say that it has nothing.
var errNoCredentials = errors.New("no credentials")

// helper runs docker-credential-NAME: a verb as its argument, input on standard input, output on standard output.
type helper struct {
	name string
	path string // $PATH
}

// get asks for the credentials of a server; empty ones when the helper has none.
func (p helper) get(ctx context.Context, server string) (credential, error) {
	out, err := p.run(ctx, "get", server, "")
	if errors.Is(err, errNoCredentials) {
		return credential{}, nil
	}
	if err != nil {
		return credential{}, err
	}
	var a struct{ Username, Secret string }
	if json.Unmarshal(out, &a) != nil { // its error would quote the secret
		return credential{}, fmt.Errorf("docker-credential-%s get: the answer is not JSON", p.name)
	}
	cred := credential{source: "docker-credential-" + p.name}
	if a.Username == "<token>" {
		cred.IdentityToken = a.Secret
	} else {
		cred.AuthConfig = authn.AuthConfig{Username: a.Username, Password: a.Secret}
	}
	return cred, nil
}

// store keeps credentials.
func (p helper) store(ctx context.Context, server, user, secret string) error {
	in, err := json.Marshal(struct{ ServerURL, Username, Secret string }{server, user, secret}) //nolint:gosec // how a credential helper wants it, on its standard input
	if err != nil {
		return fmt.Errorf("docker-credential-%s store: %w", p.name, err)
	}
	_, err = p.run(ctx, "store", string(in), secret)
	return err
}

// erase drops credentials; errNoCredentials when there are none.
func (p helper) erase(ctx context.Context, server string) error {
	_, err := p.run(ctx, "erase", server, "")
	return err
}

// list returns the user of each server.
func (p helper) list(ctx context.Context) (map[string]string, error) {
	out, err := p.run(ctx, "list", "", "")
	if err != nil {
		return nil, err
	}
	var users map[string]string
	if err := json.Unmarshal(out, &users); err != nil {
		return nil, fmt.Errorf("docker-credential-%s list: the answer is not JSON", p.name)
	}
	return users, nil
}

// run starts the helper. What it writes when it fails is its error message, by the protocol; secret is blotted out of it.
func (p helper) run(ctx context.Context, verb, input, secret string) ([]byte, error) {
	program, err := p.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helperTime, errSlow)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(input)
	var out, errOut limitedBuffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("%s %s: %w", filepath.Base(program), verb, cause)
		}
		said := strings.TrimSpace(out.String())
		if strings.Contains(said, "credentials not found") {
			return nil, errNoCredentials
		}
		said = printable(said+" "+errOut.String(), 300)
		if secret != "" {
			said = blot(said, []string{secret})
		}
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(program), verb, err, said)
	}
	return out.Bytes(), nil
}

// find looks the helper up in PATH. Relative entries of PATH are passed over, as os/exec does.
func (p helper) find() (string, error) {
	program := "docker-credential-" + p.name
	if p.name == "" || strings.ContainsAny(p.name, "/\\\x00") {
		return "", fmt.Errorf("credential helper %q: not a name", p.name)
	}
	for _, dir := range filepath.SplitList(p.path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("credential helper %s: %w", program, errNoHelper)
}

// limitedBuffer keeps the first MiB of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := 1<<20 - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
