package podroute

import (
	"testing"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// The controller can be registered with a manager; that does not call the API server.
func TestSetup(t *testing.T) {
	again := true // the test may run more than once in a process: -count
	mgr, err := ctrl.NewManager(&rest.Config{Host: "http://127.0.0.1:1"}, ctrl.Options{
		Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &again}})
	if err != nil {
		t.Fatal(err)
	}
	if err := newRig(t).r.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
}
