// Command idle does nothing: its run time is the cost of executing any program.
package main

func main() {}
