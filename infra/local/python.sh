#!/bin/sh
# Prints which of the Pythons that it is given is to run the system: the first one that was built with optimisation, else the first one that can at all.
# Nothing is printed where none can.

probe="$(dirname "$0")/interpreter.py"
able=""
for python in "$@"; do
  "$python" -I -S "$probe" 2>/dev/null
  case $? in
    0)
      if [ -n "$able" ]; then
        echo "Taking $python: $able was built without optimisation and is slower. Choose with: make PYTHON=$able ..." >&2
      fi
      echo "$python"
      exit 0
      ;;
    10) able=${able:-$python} ;;
  esac
done
echo "$able"
