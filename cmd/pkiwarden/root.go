package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

// commands is every subcommand, in the order in which help lists them.
var commands = []func(*app) *cobra.Command{
	newRunCmd,
	newStatusCmd,
	newTidyCmd, newRenewCmd,
	newCRLCmd,
	newValidateCmd,
	newVersionCmd,
	newCompletionCmd,
}

// app is what a subcommand may touch of the process: nothing else of it is
// global.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string // os.Getenv
	now            func() time.Time    // time.Now

	configFile string       // --config; "" leaves the choice to config.Load
	output     outputFormat // -o

	counted *counts // by run; nil: nothing yet
	memory  issuer.Memory
	held    ops.Held // by the last instance of run, when its configuration was replaced
}

// config loads the configuration. A wrong one is an error with exit code 64
// that prints every problem.
func (a *app) config() (*config.Config, error) {
	c, err := config.Load(a.configFile, a.env, acceptable)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return c, nil
}

// run is the whole program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string) (code int) {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, env: env, now: time.Now, output: outputTable}
	defer func() {
		if p := recover(); p != nil {
			code = a.panicked(p, debug.Stack())
		}
	}()

	bridgeStdLog(nil)
	// The first signal asks for an orderly end; with the handler gone, a second
	// one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCmd(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &exitError{code: exitInterrupted, err: errors.New("interrupted")}
	}
	return a.report(err)
}

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:     "pkiwarden",
		Version: readBuild().Version, // its own template would keep all methods of all types in the binary
		Short:   "Keeps Vault's and Consul's certificates, CRLs and PKI tidy from causing the next outage",
		Long: `pkiwarden is a sidecar for Vault and Consul on Kubernetes. It renews their
long-lived serving certificates, keeps Vault's PKI tidy in step with how fast
certificates are revoked, and says, days ahead, when a revocation list will no
longer fit into Vault's storage.` + codes{
			0: "well, or done", exitWarning: "a warning", exitCritical: "critical; failed or refused",
			exitUnknown: "unknown: it could not be determined", exitUsage: "wrong usage or configuration", exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden validate --config pkiwarden.yaml
  pkiwarden version -o json`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&a.configFile, "config", "",
		"configuration `FILE` (default $"+config.EnvFile+", then "+config.DefaultFile+")")
	root.PersistentFlags().VarP(&a.output, "output", "o", "output `FORMAT`: table or json")
	root.SetHelpCommand(newHelpCmd())
	for _, newCmd := range commands {
		root.AddCommand(newCmd(a))
	}
	classify(root)
	return root
}

// newHelpCmd replaces cobra's, which answers an unknown command with exit code 0.
func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Long:    "Help explains a command, or without one says which there are." + codes{0: "explained", exitUsage: "there is no such command"}.help(),
		Example: "  pkiwarden help validate",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if err := unknownCommand(about, rest); err != nil {
				return err
			}
			return about.Help()
		},
	}
}

// classify makes every error that comes before a command runs (flags,
// arguments, an unknown command) a usage error, and lets a command that only
// groups others refuse what it does not know.
func classify(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		classify(sub)
	}
	if !cmd.Runnable() {
		cmd.Args = unknownCommand
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return &exitError{code: exitUsage}
		}
		return
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			if args(cmd, given) != nil {
				return argumentsError(cmd, given)
			}
			return nil
		}
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	err := usageError(cmd, fmt.Errorf("unknown command %q", args[0]))
	if meant := config.Closest(args[0], names); meant != "" {
		err.hints = []string{fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+meant)}
	}
	return err
}

func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args) // the flag is that command's
	}
	var wrong *pflag.InvalidValueError
	if errors.As(err, &wrong) && errors.As(err, new(*strconv.NumError)) {
		err = fmt.Errorf("--%s is %q: want a whole number", wrong.GetFlag().Name, wrong.GetValue())
	}
	usage := usageError(cmd, err)
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return usage
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if meant := config.Closest(unknown.GetSpecifiedName(), names); meant != "" {
		usage.hints = []string{fmt.Sprintf("did you mean --%s?", meant)}
	}
	return usage
}

// writeJSON prints what -o json asks for: one value, on one line.
func writeJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// outputFormat is the value of -o. It is a flag that refuses other values.
type outputFormat string

const (
	outputTable outputFormat = "table" // for a person
	outputJSON  outputFormat = "json"  // for a program
)

func (o *outputFormat) String() string { return string(*o) }
func (o *outputFormat) Type() string   { return "FORMAT" }
func (o *outputFormat) Set(s string) error {
	switch outputFormat(s) {
	case outputTable, outputJSON:
		*o = outputFormat(s)
		return nil
	}
	return errors.New("expected table or json")
}
