"""The mathematics: functions of arrays and values, without MPI, files or options."""
