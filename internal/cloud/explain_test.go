package cloud

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		want   Class
	}{
		// ENIs and their addresses.
		{"InvalidVSwitchId.IpNotEnough", 403, VSwitchFull},
		{"QuotaExceeded.PrivateIpAddress", 400, VSwitchFull},
		{"EniPerInstanceLimitExceeded", 403, Quota},
		{"MaxEniCountExceeded", 403, Quota},
		{"SecurityGroupInstanceLimitExceed", 403, Quota},
		{"InvalidOperation.Ipv4CountExceeded", 403, Quota},
		{"InvalidOperation.Ipv6CountExceeded", 403, Quota},
		{"InvalidEniId.NotFound", 404, NotFound},
		{"InvalidEcsId.NotFound", 404, NotFound},
		{"InvalidVSwitchId.NotFound", 404, NotFound},
		{"InvalidSecurityGroupId.NotFound", 404, NotFound},
		{"InvalidOperation.InvalidEniState", 400, Conflict},
		{"InvalidOperation.InvalidEcsState", 400, Conflict},
		{"Operation.Conflict", 403, Conflict},
		{"InvalidIp.IpAssigned", 403, Conflict},
		{"InvalidIp.IpUnassigned", 403, Conflict},
		{"InvalidOperation.AvailabilityZoneMismatch", 403, Invalid},
		{"InvalidOperation.VpcMismatch", 403, Invalid},
		{"InvalidOperation.InvalidEniType", 403, Invalid},
		{"InvalidOperation.EniServiceManaged", 403, Invalid},
		{"InvalidOperation.DetachPrimaryEniNotAllowed", 403, Invalid},
		{"InvalidVSwitchId.IpInvalid", 403, Invalid},
		{"InvalidParameter.Conflict", 400, Invalid},
		// Routes: one operation per VPC at a time.
		{"TaskConflict", 400, Conflict},
		{"IncorrectRouteEntryStatus", 400, Conflict},
		{"IncorrcetRouteEntryStatus", 400, Conflict},
		{"OperationConflict", 400, Conflict},
		{"IncorrectVpcStatus", 400, Conflict},
		{"IncorrectVSwitchStatus", 400, Conflict},
		{"OperationFailed.DistibuteLock", 400, Conflict},
		{"SystemBusy", 400, Transient},
		{"InvalidRouteEntry.NotFound", 400, NotFound},
		{"InvalidCIDRBlock.Duplicate", 400, Conflict},
		{"QuotaExceeded", 400, Quota},
		{"DependencyViolation.VSwitch", 400, Conflict},
		{"DependencyViolation.Whatever", 400, Conflict},
		{"Forbidden.VpcNotFound", 400, NotFound},
		// Tokens.
		{"LastTokenProcessing", 400, Conflict},
		{"TOKEN_PROCESSING", 400, Conflict},
		{"IdempotentProcessing", 403, Conflict},
		{"IdempotentParameterMismatch", 400, Invalid},
		{"IdempotentFailed", 400, Invalid},
		// Throttling in every spelling.
		{"Throttling", 400, Throttled},
		{"Throttling.User", 400, Throttled},
		{"Throttling.Api", 400, Throttled},
		{"Throttling.SomethingNew", 400, Throttled},
		{"ConcurrentThrottling", 503, Throttled},
		// Credentials: the name has NotFound, but no resource is missing.
		{"InvalidAccessKeyId.NotFound", 404, Auth},
		{"SignatureDoesNotMatch", 403, Auth},
		{"InvalidSecurityToken.Expired", 403, Auth},
		{"InvalidSecurityToken.New", 400, Auth},
		{"Forbidden.RAM", 403, Auth},
		{"Forbidden.RegionId", 403, Invalid},
		{"InvalidAction.NotFound", 404, Invalid},
		// Codes that are not in the table.
		{"InvalidWhatever.NotFound", 400, NotFound},
		{"QuotaExceed.Whatever", 403, Quota},
		{"WhateverLimitExceeded", 403, Quota},
		{"Whatever", 400, Invalid},
		{"Whatever", 403, Invalid},
		{"Whatever", 500, Transient},
		// No code: from a proxy or a load balancer.
		{"", 401, Auth},
		{"", 403, Auth},
		{"", 404, NotFound},
		{"", 429, Throttled},
		{"", 408, Transient},
		{"", 502, Transient},
		{"", 0, Transient},
	} {
		if got := Classify(c.code, c.status); got != c.want {
			t.Errorf("Classify(%q, %d) = %s, want %s", c.code, c.status, got, c.want)
		}
	}
}

func TestTableIsSound(t *testing.T) {
	camel := regexp.MustCompile(`^[A-Z][A-Za-z0-9]+$`)
	codes, reasons := map[string]bool{}, map[string]bool{}
	for _, row := range table {
		if !camel.MatchString(row.reason) {
			t.Errorf("reason %q is not CamelCase", row.reason)
		}
		if reasons[row.reason] {
			t.Errorf("reason %s has two rows", row.reason)
		}
		reasons[row.reason] = true
		if row.cause == "" || row.next == "" || len(row.codes) == 0 {
			t.Errorf("%s: a row needs codes, a cause and a next step", row.reason)
		}
		for _, c := range row.codes {
			if codes[c] {
				t.Errorf("code %s has two rows", c)
			}
			codes[c] = true
		}
	}
}

func TestExplain(t *testing.T) {
	full := &Error{Action: "AssignPrivateIpAddresses", Code: "InvalidVSwitchId.IpNotEnough", Class: VSwitchFull}
	for _, c := range []struct {
		err    error
		reason string
		code   string
	}{
		{full, "VSwitchFull", "InvalidVSwitchId.IpNotEnough"},
		{fmt.Errorf("node a: %w", full), "VSwitchFull", "InvalidVSwitchId.IpNotEnough"},
		{&Error{Code: "Throttling.New", Class: Throttled}, "Throttled", "Throttling.New"},
		{&Error{Code: "SomeLimitExceeded", Class: Quota}, "QuotaExceeded", "SomeLimitExceeded"},
		{&Error{Class: Auth}, "NoCredential", ""},
		{&Error{Class: Throttled}, "RateLimited", ""},
		{&Error{Class: Transient, Err: context.DeadlineExceeded}, "Unreachable", ""},
		{&Error{Class: Transient, Err: context.Canceled}, "Cancelled", ""},
		{&Error{Class: Transient, Status: 502}, "BadAnswer", ""},
		{context.Canceled, "Cancelled", ""},
		{errors.New("no route to host"), "Unreachable", ""},
		{nil, "Unreachable", ""},
	} {
		x := Explain(c.err)
		if x.Reason != c.reason || x.Code != c.code {
			t.Errorf("Explain(%v) = %s/%s, want %s/%s", c.err, x.Reason, x.Code, c.reason, c.code)
		}
	}
}

func TestRepeatable(t *testing.T) {
	for code, want := range map[string]bool{
		"LastTokenProcessing":              true,
		"Operation.Conflict":               true,
		"TaskConflict":                     true,
		"Throttling.Api":                   true,
		"InternalError":                    true,
		"InvalidOperation.InvalidEniState": false, // the caller must look at the ENI first
		"InvalidIp.IpAssigned":             false,
		"IdempotentParameterMismatch":      false,
		"InvalidVSwitchId.IpNotEnough":     false,
		"Forbidden.RAM":                    false,
	} {
		if got := Repeatable(&Error{Code: code, Class: Classify(code, 400)}); got != want {
			t.Errorf("Repeatable(%s) = %v", code, got)
		}
	}
	if Repeatable(errors.New("x")) {
		t.Error("an error that is not the cloud's must not be repeated")
	}
}

// For any error, a user gets a cause, a next step and a known reason.
func TestExplainAlwaysAnswers(t *testing.T) {
	reasons := map[string]bool{badAnswer.Reason: true}
	for _, row := range table {
		reasons[row.reason] = true
	}
	for _, c := range []Class{NotFound, Conflict, Throttled, Quota, VSwitchFull, Auth, Invalid, Transient} {
		reasons[byClass(c).Reason] = true
		reasons[explainNoAnswer(c, nil).Reason] = true
	}
	part := rapid.SampledFrom([]string{"Invalid", "Throttling", "Forbidden", ".", "NotFound", "QuotaExceed", "LimitExceeded", "Eni", "", "\x00", "%s"})
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.OneOf(
			rapid.String(),
			rapid.Map(rapid.SliceOfN(part, 0, 4), func(p []string) string { return strings.Join(p, "") }),
		).Draw(t, "code")
		status := rapid.IntRange(-1, 1000).Draw(t, "status")
		class := Classify(code, status)
		x := Explain(&Error{Action: "X", Code: code, Class: class, Status: status})
		if x.Cause == "" || x.NextStep == "" || x.Class != class || !reasons[x.Reason] || x.Code != code {
			t.Fatalf("Classify = %s, Explain = %+v", class, x)
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add("Throttling.User", 400)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, code string, status int) {
		if Classify(code, status) == "" {
			t.Fatal("no class")
		}
	})
}
