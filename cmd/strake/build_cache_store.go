package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/bazel"
	"github.com/strake-build/strake/cache/remote/gha"
	"github.com/strake-build/strake/cache/remote/s3"
)

// Types of --cache-from and --cache-to that are no images.
const (
	cacheHTTP cacheType = "http"
	cacheS3   cacheType = "s3"
	cacheGHA  cacheType = "gha"
)

// opens sets how the back end is made: anew each time, as it keeps state. make was tried, and does not fail.
func opens[B remote.Backend](c *cacheFlag, make func() (B, error)) error {
	if _, err := make(); err != nil {
		return err
	}
	c.open = func(*job) remote.Backend {
		b, _ := make() // see above
		return b
	}
	return nil
}

// decideHTTP takes the attributes of type=http.
func (c *cacheFlag) decideHTTP(env *environment, attrs attributes) error {
	opt := bazel.Options{Proxy: http.ProxyFromEnvironment}
	opt.URL, _ = attrs.take("url")
	for key, to := range map[string]*string{"token-env": &opt.Token, "user-env": &opt.User} {
		variable, ok := attrs.take(key)
		if !ok {
			continue
		}
		if *to = env.getenv(variable); *to == "" {
			return fmt.Errorf("%s: the environment variable %s is not set", key, variable)
		}
	}
	return opens(c, func() (*bazel.Backend, error) { return bazel.New(opt) })
}

// decideGHA takes the attributes of type=gha; what is not given is in the environment of a job.
func (c *cacheFlag) decideGHA(env *environment, attrs attributes) error {
	opt := gha.Options{Proxy: http.ProxyFromEnvironment, Now: env.now}
	var own, given bool
	opt.Scope, _ = attrs.take("scope")
	old, own := attrs.take("url")
	if opt.URL, given = attrs.take("url_v2"); !given {
		opt.URL = old
	}
	if opt.URL == "" {
		opt.URL = env.getenv("ACTIONS_RESULTS_URL")
	}
	if opt.Token, _ = attrs.take("token"); opt.Token == "" {
		opt.Token = env.getenv("ACTIONS_RUNTIME_TOKEN")
	}
	if v, ok := attrs.take("version"); ok && v != "2" {
		return errors.New("version is 2: GitHub has shut version 1 of its cache service down")
	}
	if v, ok := attrs.take("timeout"); ok {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return errors.New("timeout is a duration, such as 10m")
		}
		opt.Timeout = d
	}
	if !own && !given && (opt.URL == "" || opt.Token == "") {
		// The same command is run on laptops.
		c.absent = "type=gha is not used: ACTIONS_RESULTS_URL and ACTIONS_RUNTIME_TOKEN are not set (only actions see them, not run: steps)"
		opt.URL, opt.Token = "https://localhost/", "none"
	}
	return opens(c, func() (*gha.Backend, error) { return gha.New(opt) })
}

var s3Name = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// decideS3 takes the attributes of type=s3; what is not given is where the tools of AWS look for it.
func (c *cacheFlag) decideS3(env *environment, attrs attributes) (err error) {
	opt := s3.Options{Proxy: http.ProxyFromEnvironment, Now: env.now}
	profile := env.awsProfile()
	for _, a := range []struct {
		key   string
		to    *string
		other []string
	}{
		{"bucket", &opt.Bucket, []string{env.getenv("AWS_BUCKET")}},
		{"region", &opt.Region, []string{env.getenv("AWS_REGION"), env.getenv("AWS_DEFAULT_REGION"), profile["region"]}},
		{"endpoint_url", &opt.Endpoint, []string{env.getenv("AWS_ENDPOINT_URL_S3"), env.getenv("AWS_ENDPOINT_URL"), profile["endpoint_url"]}},
		{"prefix", &opt.Prefix, nil},
		{"blobs_prefix", &opt.Blobs, nil},
		{"manifests_prefix", &opt.Manifests, nil},
		{"name", &opt.Name, nil},
		{"access_key_id", &opt.Credentials.AccessKeyID, nil},
		{"secret_access_key", &opt.Credentials.SecretAccessKey, nil},
		{"session_token", &opt.Credentials.SessionToken, nil},
	} {
		*a.to, _ = attrs.take(a.key)
		for _, v := range a.other {
			if *a.to == "" {
				*a.to = v
			}
		}
	}
	if opt.Name != "" && !s3Name.MatchString(opt.Name) {
		return errors.New("name is one name of letters, digits and ._-; for several, give the flag several times")
	}
	if opt.Credentials == (s3.Credentials{}) {
		opt.Credentials = s3.Credentials{
			AccessKeyID: env.getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: env.getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: env.getenv("AWS_SESSION_TOKEN"),
		}
	}
	if opt.Credentials.AccessKeyID == "" {
		opt.Credentials = s3.Credentials{
			AccessKeyID: profile["aws_access_key_id"], SecretAccessKey: profile["aws_secret_access_key"], SessionToken: profile["aws_session_token"],
		}
	}
	if opt.PathStyle, err = attrs.takeBool("use_path_style", false); err != nil {
		return err
	}
	if v, ok := attrs.take("upload_parallelism"); ok {
		if opt.Parallel, err = strconv.Atoi(v); err != nil || opt.Parallel < 1 || opt.Parallel > 32 {
			return errors.New("upload_parallelism is a number from 1 to 32")
		}
	}
	return opens(c, func() (*s3.Backend, error) { return s3.New(opt) })
}

// awsProfile reads the profile that AWS_PROFILE names, or the default one, from the files that AWS's tools share. A file that cannot
// be read has none.
func (e *environment) awsProfile() map[string]string {
	name := e.getenv("AWS_PROFILE")
	if name == "" {
		name = "default"
	}
	values := map[string]string{}
	for _, f := range []struct{ variable, file, section string }{
		{"AWS_CONFIG_FILE", "config", "profile " + name},
		{"AWS_SHARED_CREDENTIALS_FILE", "credentials", name},
	} {
		path := e.getenv(f.variable)
		if path == "" {
			path = filepath.Join(e.getenv("HOME"), ".aws", f.file)
		}
		if data, err := os.ReadFile(path); err == nil {
			parseProfile(values, string(data), f.section)
			if name == "default" && f.file == "config" {
				parseProfile(values, string(data), name)
			}
		}
	}
	return values
}

// parseProfile adds the values of a section. What is indented belongs to a value before, of which strake reads none.
func parseProfile(values map[string]string, text, section string) {
	in := false
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line := s.Text()
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if trimmed[0] == '[' {
			name, _, _ := strings.Cut(trimmed[1:], "]")
			in = strings.Join(strings.Fields(name), " ") == section
			continue
		}
		if k, v, ok := strings.Cut(trimmed, "="); ok && in {
			values[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
		}
	}
}
