package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/registry"
)

// loginOptions are the decided values of strake login.
type loginOptions struct {
	host, user, password string
	passwordStdin        bool
}

func newLoginCommand(env *environment) *cobra.Command {
	var opts loginOptions
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [REGISTRY]",
		Short: "Store the credentials for a registry",
		Long: `Store the credentials for a registry, by default Docker Hub.

They are checked first, and written where docker would: to its config.json, or to the
credential helper that it names.`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.host = registryHost(args)
			if opts.passwordStdin && cmd.Flags().Changed("password") {
				return usagef("--password and --password-stdin exclude each other")
			}
			if opts.passwordStdin && opts.user == "" {
				return usagef("--password-stdin needs --username")
			}
			return runLogin(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().StringVarP(&opts.user, "username", "u", "", "user `name`")
	cmd.Flags().StringVarP(&opts.password, "password", "p", "", "`password` or token (visible to other users of this machine: prefer --password-stdin)")
	cmd.Flags().BoolVar(&opts.passwordStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func newLogoutCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [REGISTRY]",
		Short: "Remove the credentials for a registry",
		Args:  rangeArgs(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := env.loginFile()
			if err != nil {
				return err
			}
			host := registryHost(args)
			fmt.Fprintf(env.stdout, "Removing login credentials for %s\n", host)
			err = env.registry().Logout(host, file)
			if errors.Is(err, registry.ErrNotLoggedIn) { // what was asked for is so, as docker sees it
				fmt.Fprintf(env.stderr, "warning: %v\n", err)
				return nil
			}
			return err
		},
	}
}

// registryHost is the argument without scheme and path, or Docker Hub.
func registryHost(args []string) string {
	if len(args) == 0 {
		return hub
	}
	host := strings.TrimPrefix(strings.TrimPrefix(args[0], "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	return host
}

// loginFile is the file that login writes: the one the user named, or docker's.
func (e *environment) loginFile() (string, error) {
	if f := e.chosenAuthFile(); f != "" {
		return f, nil
	}
	if f := e.dockerConfig(); f != "" {
		return f, nil
	}
	return "", usagef("no place for credentials: HOME is not set; use --authfile")
}

func runLogin(ctx context.Context, env *environment, opts loginOptions) error {
	file, err := env.loginFile()
	if err != nil {
		return err
	}
	if opts.host == "" {
		return usagef("the registry's name is empty")
	}
	if opts.password != "" {
		fmt.Fprintln(env.stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	in := bufio.NewReader(env.stdin)
	if opts.passwordStdin {
		secret, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		opts.password = strings.TrimRight(string(secret), "\r\n")
	}
	if opts.user == "" || opts.password == "" && !opts.passwordStdin {
		if !isTerminal(env.stdin) {
			return usagef("cannot ask for a login without a terminal: use --username and --password-stdin")
		}
	}
	if opts.user == "" {
		if opts.user, err = ask(env.stderr, in, "Username: "); err != nil {
			return err
		}
	}
	if opts.password == "" && !opts.passwordStdin {
		if opts.password, err = askSecret(ctx, env, in); err != nil {
			return err
		}
	}
	if opts.user == "" || opts.password == "" {
		return usagef("username and password are needed")
	}
	if err := env.registry().Login(ctx, opts.host, opts.user, opts.password, file); err != nil {
		if errors.Is(err, registry.ErrUnauthorized) {
			return &hintError{err, "many registries want an access token in place of the password"}
		}
		return err
	}
	_, err = fmt.Fprintln(env.stdout, "Login Succeeded")
	return err
}

// ask prompts for a line.
func ask(w io.Writer, in *bufio.Reader, prompt string) (string, error) {
	io.WriteString(w, prompt)
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// askSecret prompts for a line that the terminal does not show. An interrupt restores the terminal.
func askSecret(ctx context.Context, env *environment, in *bufio.Reader) (string, error) {
	restore, err := echoOff(env.stdin)
	if err != nil {
		return "", fmt.Errorf("hiding the password: %w", err)
	}
	defer restore()
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := ask(env.stderr, in, "Password: ")
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(env.stderr)
		return a.line, a.err
	case <-ctx.Done():
		// The reader stays behind in read(2); the process ends now.
		fmt.Fprintln(env.stderr)
		return "", context.Cause(ctx)
	}
}

// echoOff stops a terminal from showing what is typed.
func echoOff(f *os.File) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &quiet); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old) }, nil
}
