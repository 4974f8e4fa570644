package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type machine struct {
	memory int
	limit  time.Duration
	keep   bool
}

// kernelArguments: a panic or an oops ends the VM at once; no time is spent on what an
// emulated machine of a few seconds need not have.
const kernelArguments = "console=ttyS0 loglevel=5 panic=-1 oops=panic reboot=t mitigations=off tsc=reliable no_timer_check " +
	"random.trust_cpu=on audit=0 cryptomgr.notests"

// boot runs the program in a VM of one processor (a second one makes the tests no faster, and
// an emulated kernel that changes its own code under the other once died of it) and returns its exit code; an error means that there
// is none. The guest's serial ports: the kernel's log, the program's output, and what
// listen reads.
func boot(ctx context.Context, k kernel, m machine, program string, args []string) (code int, err error) {
	work, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return 0, fmt.Errorf("make a folder for the VM: %w", err)
	}
	if m.keep {
		fmt.Fprintln(os.Stderr, "vm: the kernel's log is in", work)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	initrd, log := filepath.Join(work, "initrd"), filepath.Join(work, "kernel.log")
	if err := writeInitrd(ctx, initrd, k, program, newJob(args)); err != nil {
		return 0, fmt.Errorf("make the guest's file system: %w", err)
	}

	says, port, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe to the VM: %w", err)
	}
	defer says.Close()
	arguments := kernelArguments
	if khz := counterKHz(); khz > 0 {
		arguments += " tsc_early_khz=" + strconv.Itoa(khz)
	}
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	qemu := exec.CommandContext(limited, "qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "max,la57=off", "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:"+log, "-serial", "stdio", "-serial", "file:/proc/self/fd/3",
		"-kernel", k.image, "-initrd", initrd, "-append", arguments)
	qemu.Stdout, qemu.Stderr, qemu.ExtraFiles = os.Stdout, os.Stderr, []*os.File{port}
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = qemu.Start()
	if closed := port.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, fmt.Errorf("start qemu: %w", err)
	}
	said := listen(says)
	ended := qemu.Wait()

	if said.ended {
		return said.code, clockError(said.guest, said.here)
	}
	why := "the VM ended before the program did"
	switch {
	case ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case limited.Err() != nil:
		why = fmt.Sprintf("the program did not end within %s", m.limit)
	case ended != nil:
		why = fmt.Sprintf("qemu: %v", ended)
	}
	return 0, fmt.Errorf("%s; the end of the kernel's log (%s):\n%s", why, k.pkg, tail(log, 40))
}

// heard is what the guest said of its program.
type heard struct {
	ended bool
	code  int
	// guest is how long the program ran by the guest's clock, here by this machine's.
	guest, here time.Duration
}

// The guest says when the program starts, and when it has ended: how many nanoseconds it
// ran by the guest's clock, and its exit code.
const (
	lineStart = "start"
	lineEnd   = "end %d %d"
)

// listen reads what the guest says until the VM ends.
func listen(r io.Reader) (h heard) {
	var start time.Time
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var guest time.Duration
		var code int
		if lines.Text() == lineStart {
			start = time.Now()
		} else if n, _ := fmt.Sscanf(lines.Text(), lineEnd, &guest, &code); n == 2 {
			h = heard{ended: true, code: code, guest: guest, here: time.Since(start)}
		}
	}
	return h
}

// newJob leaves out what would write to this machine's files.
func newJob(args []string) job {
	var j job
	for _, a := range args {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			j.Args = append(j.Args, a)
		}
	}
	for _, v := range os.Environ() {
		if forwarded.MatchString(v) {
			j.Env = append(j.Env, v)
		}
	}
	return j
}

func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
