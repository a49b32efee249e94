package runner

import (
	"os"

	"github.com/strake-build/strake/runner/sandbox"
)

// Main must be the first call of main, and of TestMain in packages that run boxes: it returns at once, unless this
// process was started by Run or Enter as a child, whose work it then does and exits.
func Main() {
	if len(os.Args) == 0 {
		return
	}
	if os.Args[0] == sandbox.Marker {
		sandbox.Init()
	}
}
