-- What is kept of all schedules.
return call('HVALS', P .. 'schedules')
