// Takes the place of the library by which agnhost speaks SCTP (see sctp.go): ../go.mod replaces it.
module github.com/ishidawataru/sctp

go 1.26.0
