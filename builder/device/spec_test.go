package device

import (
	"path/filepath"
	"testing"
)

// Whatever a specification says, what is read of it is valid.
func FuzzSpec(f *testing.F) {
	f.Add([]byte("cdiVersion: '0.6.0'\nkind: v.org/c\ndevices:\n- name: x\n  containerEdits: {env: [A=1], mounts: [{hostPath: /a, containerPath: /b, options: [ro]}]}\n"), true)
	f.Add([]byte(`{"cdiVersion": "0.6.0", "kind": "v.org/c", "devices": [{"name": "x", "containerEdits": {"deviceNodes": [{"path": "/dev/zero"}]}}]}`), false)
	f.Add([]byte("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, isYAML bool) {
		s, err := parseSpec(data, isYAML)
		if err != nil {
			return
		}
		for _, d := range s.Devices {
			if d.Name == "" || d.Edits.empty() {
				t.Errorf("device %+v", d)
			}
			for _, m := range d.Edits.Mounts {
				if mount, err := m.mount(); err == nil && (!filepath.IsAbs(mount.Source) || !filepath.IsAbs(mount.Target)) {
					t.Errorf("mount %+v", mount)
				}
			}
		}
	})
}
