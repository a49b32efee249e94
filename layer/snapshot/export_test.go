package snapshot

import "github.com/strake-build/strake/layer/rootfs"

// OpenOld is Mount.Open as it is on kernels without lowerdir+.
func (m Mount) OpenOld() (*rootfs.Root, error) {
	f, err := m.mount()
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}
