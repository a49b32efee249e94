package runner

import (
	"fmt"
	"os"
	"strings"

	"github.com/strake-build/strake/runner/sandbox"
)

// Main must be the first call of main, and of TestMain in packages that run boxes: it returns at once, unless this
// process was started by Run or Enter as a child, whose work it then does and exits.
//
// In the child that Enter leaves running it prepares the process and returns: the program goes on as outside.
func Main() {
	if len(os.Args) == 0 || !strings.HasPrefix(os.Args[0], "strake-") {
		return
	}
	var err error
	switch {
	case os.Args[0] == sandbox.Marker:
		sandbox.Init()
	case strings.HasPrefix(os.Args[0], waitMarker):
		err = waitForIDs()
	case strings.HasPrefix(os.Args[0], enteredMarker):
		err = entered()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "strake: entering a user namespace:", err)
		os.Exit(125)
	}
}
