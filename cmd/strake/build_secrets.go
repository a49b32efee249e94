package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// maxSecret bounds a secret, in bytes, as in BuildKit.
const maxSecret = 500 << 10

// secretFlag is a decided --secret: exactly one of file and env is set.
type secretFlag struct {
	id, file, env string
	content       bool // its value is in the keys of steps that use it
}

// parseSecret parses docker's syntax: id=ID[,src=FILE][,env=VARIABLE][,type=file|env], and cache-key=content. An ID alone names a variable, if
// there is one, or else a file.
func parseSecret(env *environment, value string) (secretFlag, error) {
	var s secretFlag
	var kind string
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return s, usagef("invalid --secret %q: %w", value, err)
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return s, usagef("invalid --secret %q: %q is not KEY=VALUE", value, field)
		}
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "id":
			s.id = v
		case "src", "source":
			s.file = v
		case "env":
			s.env = v
		case "type":
			if v != "file" && v != "env" {
				return s, usagef("invalid --secret %q: the type is file or env", value)
			}
			kind = v
		case "cache-key":
			if v != "content" {
				return s, usagef("invalid --secret %q: the cache-key is content, or not given", value)
			}
			s.content = true
		default:
			return s, usagef("invalid --secret %q: unexpected key %q: it is id, src, env, type or cache-key", value, k)
		}
	}
	if s.id == "" {
		return s, usagef("invalid --secret %q: it has no id", value)
	}
	if kind == "env" && s.env == "" {
		s.env, s.file = s.file, ""
	}
	if s.env != "" && s.file != "" {
		return s, usagef("invalid --secret %q: src and env exclude each other", value)
	}
	if s.env == "" && s.file == "" {
		if _, ok := env.lookup(s.id); kind == "env" || ok && kind == "" {
			s.env = s.id
		} else {
			s.file = s.id
		}
	}
	return s, nil
}

// secrets gives steps the values of --secret. A value is read when a step first asks for it, and once.
type secrets map[string]func() ([]byte, error)

// openSecrets makes sure that the secrets can be had. What is missing is known before the first step runs.
func openSecrets(env *environment, flags []secretFlag) (secrets, error) {
	s := make(secrets)
	for _, f := range flags {
		if f.env != "" {
			s[f.id] = sync.OnceValues(func() ([]byte, error) { return checkSecret([]byte(env.getenv(f.env))) })
			if _, ok := env.lookup(f.env); !ok {
				fmt.Fprintf(env.stderr, "warning: the secret %s is empty: the environment variable %s is not set\n", f.id, f.env)
			}
			continue
		}
		st, err := os.Stat(f.file)
		if err == nil && st.IsDir() {
			err = &fs.PathError{Op: "reading", Path: f.file, Err: errors.New("it is a folder")}
		}
		if err != nil {
			return nil, fmt.Errorf("the secret %s: %w", f.id, err)
		}
		s[f.id] = sync.OnceValues(func() ([]byte, error) { return readSecret(f.file) })
	}
	return s, nil
}

// readSecret reads a file, or what else can be opened: a shell's <(…) is a pipe.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	return checkSecret(value)
}

func checkSecret(value []byte) ([]byte, error) {
	if len(value) > maxSecret {
		return nil, fmt.Errorf("it has more than %d KiB", maxSecret>>10)
	}
	return value, nil
}

// Secret is builder.Secrets'.
func (s secrets) Secret(id string) (value []byte, ok bool, err error) {
	read, ok := s[id]
	if !ok {
		return nil, false, nil
	}
	value, err = read()
	return value, true, err
}

// secretKey returns what stands for the values of those secrets in keys that are to be: it tells values apart on this machine alone.
func (j *job) secretKey() func(id string) (key string, ok bool, err error) {
	content := make(map[string]bool)
	for _, f := range j.opts.secrets {
		if f.content {
			content[f.id] = true
		}
	}
	if len(content) == 0 {
		return nil
	}
	salt := sync.OnceValues(j.Cache.Salt)
	return func(id string) (string, bool, error) {
		if !content[id] {
			return "", false, nil
		}
		value, _, err := j.secrets.Secret(id)
		if err != nil {
			return "", false, err
		}
		key, err := salt()
		if err != nil {
			return "", false, err
		}
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write([]byte(id + "\x00")) // never fails, nor does the next
		_, _ = mac.Write(value)
		return hex.EncodeToString(mac.Sum(nil)), true, nil
	}
}

// text is Secret for what fetches from the network.
func (s secrets) text(id string) (string, bool, error) {
	value, ok, err := s.Secret(id)
	return string(value), ok, err
}
