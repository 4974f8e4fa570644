package program

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// What libraries log does not reach standard error. Not parallel: it replaces the process's standard error and loggers.
func TestQuiet(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stderr
	os.Stderr = w
	defer func() { os.Stderr = before; klog.ClearLogger() }()
	quiet()
	klog.Errorf("an unhandled error")
	utilruntime.HandleErrorWithContext(context.Background(), errors.New("it has ended"), "a stream")
	log.Log.Info("a message")
	klog.Flush()
	w.Close()
	if out, err := io.ReadAll(r); err != nil || len(out) > 0 {
		t.Errorf("standard error has %q, %v", out, err)
	}
}
