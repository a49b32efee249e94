package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/cache/remote"
)

// secretCacheKeys are attributes whose values are shown to nobody.
var secretCacheKeys = map[string]bool{"secret_access_key": true, "session_token": true, "access_key_id": true, "token": true, "ghtoken": true}

// shownCache is a value of --cache-from or --cache-to without what is secret.
func shownCache(value string) string {
	fields := strings.Split(value, ",")
	for i, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		key := strings.ToLower(strings.Trim(k, "\" "))
		switch {
		case ok && secretCacheKeys[key]:
			fields[i] = k + "=…"
		case ok && strings.Contains(v, "@") && strings.Contains(v, "://"):
			u, err := url.Parse(strings.Trim(v, "\""))
			if err != nil {
				fields[i] = k + "=…"
				continue
			}
			u.User = nil
			fields[i] = k + "=" + u.String()
		}
	}
	return strings.Join(fields, ",")
}

// decideTrust takes the attributes that say whom the reader of a cache trusts.
func (c *cacheFlag) decideTrust(attrs attributes) error {
	key := "verify-key"
	if c.to {
		key = "sign-key"
	}
	file, ok := attrs.take(key)
	if !ok {
		return nil
	}
	text, err := os.ReadFile(file)
	if err == nil && c.to {
		c.sign, err = remote.ParseSigningKey(text)
	} else if err == nil {
		c.verify, err = remote.ParseVerifyKeys(text)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", key, file, err)
	}
	return nil
}

// decideMounts takes the attributes that say which cache mounts are written.
func (c *cacheFlag) decideMounts(attrs attributes) (err error) {
	list, given := attrs.take("mounts")
	if most, ok := attrs.take("mounts-max"); ok {
		if !given {
			return errors.New("mounts-max is of mounts=ID,… or mounts=all, which is not given")
		}
		if c.mountsMax, err = parseSize("mounts-max", most); err != nil || c.mountsMax <= 0 {
			return errors.New("mounts-max is a size, such as 2g")
		}
	}
	if !given {
		return nil
	}
	for id := range strings.SplitSeq(list, ",") {
		switch id = strings.TrimSpace(id); id {
		case "":
			return errors.New("mounts is a list of ids of cache mounts, or all")
		case "all":
			c.allMounts = true
		default:
			c.mounts = append(c.mounts, id)
		}
	}
	return nil
}

// backend opens the back end.
func (c cacheFlag) backend(j *job, warn func(string)) remote.Backend {
	b := c.open(j)
	if c.sign != nil {
		b = remote.Sign(b, c.sign)
	}
	if c.verify != nil {
		b = remote.Verify(b, c.verify, warn)
	}
	return b
}

// travels adds a cache that cache mounts are written to.
func (j *job) travels(c cacheFlag, warn func(string)) {
	if len(c.mounts) == 0 && !c.allMounts {
		return
	}
	open := func() remote.Backend {
		if l, ok := c.open(j).(*remote.Local); ok && l.Reset {
			again := c
			again.open = func(*job) remote.Backend {
				l.Reset = false // what the steps of this build left stays
				return l
			}
			return again.backend(j, warn)
		}
		return c.backend(j, warn)
	}
	j.mountTravel(warn).To = append(j.mounts.To, cachemount.Target{Open: open, IDs: c.mounts, All: c.allMounts, Max: c.mountsMax})
}

// mountTravel returns what takes cache mounts along.
func (j *job) mountTravel(warn func(string)) *cachemount.Travel {
	if j.mounts == nil {
		j.mounts = &cachemount.Travel{Temp: j.temp, UserXattr: j.isolation.UserNS, Warn: warn, Now: j.env.now}
	}
	return j.mounts
}

// sendMounts writes the cache mounts after the build, and not after it was interrupted.
func (j *job) sendMounts(ctx context.Context) {
	if j.mounts != nil && ctx.Err() == nil {
		j.mounts.Export(ctx)
	}
}
